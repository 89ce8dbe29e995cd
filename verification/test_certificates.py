"""Certificates as the outside sees them, and as they lie on the host."""

from __future__ import annotations

import datetime
import shlex
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from plugins.action.own_ca import OwnCA
from verification.probes import xmpp
from verification.probes.tls import Channel, Offer
from verification.targets import VirtualHost

STORE = "/etc/portcullis/certificates"
DEPLOY = "/usr/local/lib/portcullis/certificate-deploy"
HTTPS = 443
OWN_CA = "CN=Portcullis private CA"  # as plugins/action/own_ca.py names it


@pytest.fixture(params=[xmpp.C2S, xmpp.C2S_DIRECT, xmpp.S2S, xmpp.S2S_DIRECT, HTTPS])
def port(request, target) -> int:
    """Each port with a certificate."""
    if request.param in (xmpp.S2S, xmpp.S2S_DIRECT) and not target.federates:
        pytest.skip("federation is off")
    return request.param


def handshake(target, port: int, domain: str) -> Channel:
    """An encrypted connection to a virtual host."""
    if port == HTTPS:
        channel = Channel.connect(*target.at(HTTPS))
    else:
        channel = target.channel(port, domain, sender="peer.example")
    channel.start_tls(Offer(domain))
    return channel


def fingerprint(certificate: x509.Certificate) -> str:
    """The end of the serial number: enough to tell two certificates apart in a report."""
    return f"{certificate.serial_number:x}"[-8:]


@pytest.fixture
def in_store(host, target) -> dict[str, x509.Certificate]:
    """The certificate in the store, by domain."""
    with host.sudo():
        return {
            domain: x509.load_pem_x509_certificate(
                host.check_output("cat %s", f"{STORE}/{domain}/fullchain.pem").encode()
            )
            for domain in target.domains
        }


@pytest.mark.control("CERT-01")
def test_a_certificate_names_all_that_its_virtual_host_serves(target, evidence, port):
    for served in target.hosts:
        with handshake(target, port, served.domain) as channel:
            for name in served.names:
                channel.verify(name, target.ca_file)
        evidence(f"{port} {served.domain} -> valid for {', '.join(served.names)}")


@pytest.mark.control("CERT-02")
def test_what_is_served_is_what_is_in_the_store(target, in_store, evidence, port):
    for domain, certificate in in_store.items():
        with handshake(target, port, domain) as channel:
            served = channel.chain[0]
        assert served == certificate, f"{port} {domain} serves an old certificate: {fingerprint(served)}"
        evidence(f"{port} {domain} -> {fingerprint(served)}")


@pytest.mark.control("CERT-02")
def test_a_component_is_served_under_the_certificate_of_its_host(target, in_store, evidence, port):
    for served in target.hosts:
        for name in components(served, port):
            with handshake(target, port, name) as channel:
                assert channel.chain[0] == in_store[served.domain]
            evidence(f"{port} {name} -> {fingerprint(in_store[served.domain])}, as {served.domain}")


def components(served: VirtualHost, port: int) -> list[str]:
    """The names besides the domain itself that are served at a port: clients of XMPP ask for the domain alone."""
    names = {
        xmpp.S2S: (served.muc, served.upload),
        xmpp.S2S_DIRECT: (served.muc, served.upload),
        HTTPS: (served.web, served.upload),
    }
    return [name for name in names.get(port, ()) if name and name != served.domain]


@pytest.mark.control("CERT-16")
def test_the_host_looks_after_its_certificates(host, target, evidence):
    timer = host.service("portcullis-certificates.timer")
    assert timer.is_enabled
    assert timer.is_running
    assert host.run("systemctl is-failed --quiet portcullis-certificates.service").rc == 1
    with host.sudo():
        metrics = host.file("/var/lib/portcullis/certificates/certificates.prom").content_string
    for domain in target.domains:
        assert f'portcullis_certificate_not_after_seconds{{domain="{domain}"}}' in metrics
    evidence(f"the timer runs, and certificates.prom has the ends of {', '.join(target.domains)}")


@pytest.mark.control("CERT-03")
def test_no_certificate_is_about_to_end(target, evidence, port):
    now = datetime.datetime.now(datetime.timezone.utc)
    for domain in target.domains:
        with handshake(target, port, domain) as channel:
            leaf = channel.chain[0]
        lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
        left = leaf.not_valid_after_utc - now
        evidence(f"{port} {domain} -> until {leaf.not_valid_after_utc:%Y-%m-%d}")
        assert left > lifetime / 8, f"{domain} ends in {left}"


@pytest.mark.control("CERT-04")
def test_certificates_are_for_servers_alone_with_strong_keys(target, evidence, port):
    for domain in target.domains:
        with handshake(target, port, domain) as channel:
            leaf = channel.chain[0]
        key = leaf.public_key()
        assert isinstance(key, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey))
        assert key.key_size >= (2048 if isinstance(key, rsa.RSAPublicKey) else 256)
        hash_algorithm = leaf.signature_hash_algorithm
        assert hash_algorithm is not None
        assert hash_algorithm.name not in ("md5", "sha1")
        usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert ExtendedKeyUsageOID.SERVER_AUTH in usage
        assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        evidence(f"{port} {domain} -> {type(key).__name__} {key.key_size}, {hash_algorithm.name}")


@pytest.mark.control("CERT-05")
def test_keys_in_the_store_are_root_s(host, target, evidence):
    with host.sudo():
        for domain in target.domains:
            key = host.file(host.check_output("readlink -f %s", f"{STORE}/{domain}/privkey.pem"))
            assert (key.user, key.group, key.mode) == ("root", "root", 0o600), key.path
            evidence(f"{key.path} is root's alone")
        store = host.file(STORE)
        assert (store.user, store.mode) == ("root", 0o700)


@pytest.mark.control("CERT-05")
def test_prosody_s_copies_are_prosody_s_alone(host, target, evidence):
    with host.sudo():
        for domain in target.domains:
            key = host.file(f"/etc/prosody/certs/{domain}.key")
            assert (key.user, key.group, key.mode) == ("root", "prosody", 0o640), key.path
            evidence(f"{key.path} is root's to write and prosody's to read")


@pytest.mark.control("CERT-05")
@pytest.mark.parametrize("user", ["nobody", "www-data"])
def test_no_other_user_reads_a_key(host, target, evidence, user):
    with host.sudo(user):
        for domain in target.domains:
            for key in (f"{STORE}/{domain}/privkey.pem", f"/etc/prosody/certs/{domain}.key"):
                result = host.run("cat %s", key)
                assert result.rc != 0, f"{user} reads {key}"
                assert "Permission denied" in result.stderr
        evidence(f"{user} -> Permission denied")


@pytest.mark.control("CERT-05")
def test_no_key_was_logged(host):
    with host.sudo():
        assert host.run("journalctl --no-pager --quiet --grep='BEGIN.*[P]RIVATE KEY' --lines=1").stdout == ""


def private_ca(target) -> x509.Certificate:
    """The certificate of the kit's own CA."""
    certificate = x509.load_pem_x509_certificate(target.ca_file.read_bytes())
    if target.variables["certificates_provider"] != "own_ca" or OWN_CA not in certificate.subject.rfc4514_string():
        pytest.skip("the certificates are not from the kit's own CA")
    return certificate


@pytest.mark.control("CERT-06")
def test_the_private_ca_is_constrained(target, evidence):
    extensions = private_ca(target).extensions
    basic = extensions.get_extension_for_class(x509.BasicConstraints)
    constraints = extensions.get_extension_for_class(x509.NameConstraints)
    assert basic.critical
    assert basic.value.path_length == 0
    assert constraints.critical
    permitted = constraints.value.permitted_subtrees or []
    assert permitted
    assert all(isinstance(name, x509.DNSName) and "." in name.value for name in permitted)
    usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    evidence(f"path length 0, serverAuth, only {', '.join(str(name.value) for name in permitted)}")


@pytest.mark.control("CERT-06")
def test_the_private_ca_cannot_sign_for_anybody_else(host, target, evidence):
    certificate = private_ca(target)
    key_file = Path(str(target.variables["certificates_ca_directory"])) / "ca.key"
    if not key_file.exists() or not key_file.read_text().startswith("-----BEGIN"):
        pytest.skip("not shown: the CA's key is not here, or encrypted")
    ca = OwnCA.load(key_file.read_text(), certificate.public_bytes(Encoding.PEM).decode())
    request = host.check_output("openssl req -new -newkey rsa:2048 -nodes -keyout /dev/null -subj /")
    forged = x509.load_pem_x509_certificate(
        ca.sign(request[request.index("-----BEGIN") :], ["bank.example"], datetime.timedelta(days=1)).encode()
    )
    verifier = PolicyBuilder().store(Store([certificate])).build_server_verifier(x509.DNSName("bank.example"))
    with pytest.raises(VerificationError) as refused:
        verifier.verify(forged, [])
    evidence(f"a certificate for bank.example signed with the CA's key -> {refused.value}")


@pytest.mark.control("CERT-06")
def test_the_key_of_the_private_ca_is_not_on_the_host(host, target, evidence):
    private_ca(target)
    with host.sudo():
        found = host.run("grep -rlsF %s /etc /root /home /var/lib /usr/local", ca_key_line(target)).stdout.split()
    assert not found
    evidence("no file under /etc, /root, /home, /var/lib and /usr/local holds it")


def ca_key_line(target) -> str:
    """A line of the CA's key that occurs in no other file."""
    key_file = Path(str(target.variables["certificates_ca_directory"])) / "ca.key"
    if not key_file.exists() or not key_file.read_text().startswith("-----BEGIN"):
        pytest.skip("not shown: the CA's key is not here, or encrypted")
    return key_file.read_text().splitlines()[2]


@pytest.fixture
def scratch_store(host, target):
    """A copy of the store's first domain without the services' programs, for certificate-deploy to work on."""
    domain = target.domain
    with host.sudo():
        path = host.check_output("mktemp -d")
        host.check_output("mkdir -p %s/deploy.d && cp -a %s %s", path, f"{STORE}/{domain}", path)
        yield path
        host.check_output("rm -rf %s", path)


def deploy(host, store: str, domain: str):
    """Run certificate-deploy on a store."""
    return host.run(f"PORTCULLIS_CERTIFICATES={shlex.quote(store)} {DEPLOY} {shlex.quote(domain)}")


def in_use(host, store: str, domain: str) -> str:
    """The certificate in use, PEM."""
    return host.check_output("cat %s", f"{store}/{domain}/fullchain.pem")


@pytest.mark.control("CERT-07")
def test_a_key_that_does_not_fit_never_comes_into_use(host, target, scratch_store, evidence):
    waiting = f"{scratch_store}/{target.domain}/next"
    before = in_use(host, scratch_store, target.domain)
    host.check_output("mkdir %s && cp %s/../fullchain.pem %s", waiting, waiting, waiting)
    host.check_output("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out %s/privkey.pem", waiting)
    result = deploy(host, scratch_store, target.domain)
    assert result.rc == 1
    assert in_use(host, scratch_store, target.domain) == before
    evidence(result.stderr.strip().splitlines()[-1])


@pytest.mark.control("CERT-07")
def test_a_service_that_refuses_gets_the_previous_pair_back(host, target, scratch_store, evidence):
    domain = target.domain
    waiting = f"{scratch_store}/{domain}/next"
    before = in_use(host, scratch_store, domain)
    host.check_output("mkdir %s", waiting)
    host.check_output(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj / -days 1 "
        "-addext subjectAltName=critical,DNS:%s -keyout %s/privkey.pem -out %s/fullchain.pem",
        domain,
        waiting,
        waiting,
    )
    host.check_output("ln -s /bin/false %s/deploy.d/refuses", scratch_store)
    result = deploy(host, scratch_store, domain)
    assert result.rc == 1
    assert in_use(host, scratch_store, domain) == before
    evidence(result.stderr.strip().splitlines()[-1])
