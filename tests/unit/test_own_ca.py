"""The private CA: what it signs, when it renews, what it never does."""

from __future__ import annotations

import datetime
import stat
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from plugins.action import own_ca
from plugins.action.own_ca import ActionModule, Directory, OwnCA

NAMES = ["example.org", "conference.example.org", "upload.example.org"]
YEAR = datetime.timedelta(days=365)


def request_of(key) -> str:
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode()


def public_pem(key) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def verify(ca: OwnCA, chain: str, name: str) -> None:
    verifier = PolicyBuilder().store(Store([ca.certificate])).build_server_verifier(x509.DNSName(name))
    verifier.verify(x509.load_pem_x509_certificate(chain.encode()), [])


@pytest.fixture
def ca() -> OwnCA:
    return OwnCA.create(NAMES)


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


def test_the_ca_can_do_nothing_but_sign_servers_of_its_domains(ca):
    extensions = {extension.oid._name: extension for extension in ca.certificate.extensions}
    assert extensions["basicConstraints"].critical
    assert extensions["basicConstraints"].value == x509.BasicConstraints(ca=True, path_length=0)
    assert extensions["nameConstraints"].critical
    assert ca.permitted == ["example.org"]
    assert list(extensions["extendedKeyUsage"].value) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = extensions["keyUsage"]
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature


def test_a_certificate_is_for_servers_and_the_names_of_the_task(ca, key):
    chain = ca.sign(request_of(key), NAMES, YEAR)
    for name in NAMES:
        verify(ca, chain, name)
    certificate = x509.load_pem_x509_certificate(chain.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == NAMES
    assert names.critical, "RFC 5280 section 4.2.1.6: critical, as the subject is empty"
    assert certificate.subject == x509.Name([])
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


@pytest.mark.parametrize("name", ["bank.example", "notexample.org", "org"])
def test_no_client_believes_a_certificate_for_a_foreign_name(ca, key, name):
    with pytest.raises(VerificationError):
        verify(ca, ca.sign(request_of(key), [name], YEAR), name)


def test_a_request_with_a_forged_signature_is_refused(ca, key):
    honest = x509.load_pem_x509_csr(request_of(key).encode())
    foreign = b""
    while len(foreign) != len(honest.signature):
        foreign = x509.load_pem_x509_csr(request_of(ec.generate_private_key(ec.SECP256R1())).encode()).signature
    forged = honest.public_bytes(serialization.Encoding.DER).replace(honest.signature, foreign)
    request = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(ValueError, match="not signed by its own key"):
        ca.sign(request, NAMES, YEAR)


def test_a_fresh_certificate_stays(ca, key):
    chain = ca.sign(request_of(key), NAMES, YEAR)
    assert ca.reason_to_renew(chain, public_pem(key), NAMES, "ecdsa-p256") is None


def test_each_difference_is_a_reason_to_renew(ca, key, monkeypatch):
    chain = ca.sign(request_of(key), NAMES, YEAR)
    other = ec.generate_private_key(ec.SECP256R1())
    assert ca.reason_to_renew(None, None, NAMES, "ecdsa-p256") == "there is none"
    assert "key is another" in str(ca.reason_to_renew(chain, public_pem(other), NAMES, "ecdsa-p256"))
    assert "another CA" in str(OwnCA.create(NAMES).reason_to_renew(chain, public_pem(key), NAMES, "ecdsa-p256"))
    assert "names" in str(ca.reason_to_renew(chain, public_pem(key), NAMES[:2], "ecdsa-p256"))
    assert "type of key" in str(ca.reason_to_renew(chain, public_pem(key), NAMES, "rsa-2048"))
    now = own_ca._now()
    monkeypatch.setattr(own_ca, "_now", lambda: now + YEAR * 0.66)
    assert ca.reason_to_renew(chain, public_pem(key), NAMES, "ecdsa-p256") is None
    monkeypatch.setattr(own_ca, "_now", lambda: now + YEAR * 0.67)
    assert "it ends on" in str(ca.reason_to_renew(chain, public_pem(key), NAMES, "ecdsa-p256"))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ecdsa-p384"),
        (lambda: rsa.generate_private_key(65537, 2048), "rsa-2048"),
    ],
)
def test_the_type_of_a_key_is_recognised(ca, make, name):
    key = make()
    chain = ca.sign(request_of(key), NAMES, YEAR)
    assert ca.reason_to_renew(chain, public_pem(key), NAMES, name) is None


def test_a_new_domain_gets_a_new_ca_certificate_with_the_same_key(ca, key):
    chain = ca.sign(request_of(key), NAMES, YEAR)
    before = ca.certificate
    assert ca.reason_to_reissue([*NAMES, "chat.example.org"], YEAR) is None
    assert ca.reason_to_reissue([*NAMES, "second.example"], YEAR) == "it now covers second.example"
    ca.reissue([*NAMES, "second.example"])
    assert ca.permitted == ["example.org", "second.example"]
    assert ca.certificate.subject == before.subject
    verify(ca, chain, "example.org")
    new = ca.sign(request_of(key), ["second.example"], YEAR)
    verify(ca, new, "second.example")
    old = OwnCA(ca.key, before)
    with pytest.raises(VerificationError):
        verify(old, new, "second.example")
    verify(old, ca.sign(request_of(key), NAMES, YEAR), "example.org")


def test_a_ca_that_would_end_before_its_certificates_is_reissued(ca, monkeypatch):
    now = own_ca._now()
    monkeypatch.setattr(own_ca, "_now", lambda: now + own_ca.CA_LIFETIME - YEAR / 2)
    assert "expired or soon" in str(ca.reason_to_reissue(NAMES, YEAR))
    ca.reissue(NAMES)
    assert ca.reason_to_reissue(NAMES, YEAR) is None


@pytest.fixture
def directory(tmp_path) -> Directory:
    return Directory(tmp_path / "ca", lambda path: (tmp_path / path).read_text())


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_directory_keeps_the_key_from_others_and_from_git(directory, ca):
    with directory.locked():
        assert directory.load() is None
        directory.save_key(ca)
        directory.save_certificate(ca)
        loaded = directory.load()
    assert loaded is not None
    assert loaded.certificate == ca.certificate
    assert [mode(directory.path), mode(directory.key), mode(directory.certificate)] == [0o700, 0o600, 0o644]
    assert (directory.path / ".gitignore").read_text() == "*\n"


def test_half_a_ca_is_not_replaced(directory, ca):
    with directory.locked():
        directory.save_certificate(ca)
        with pytest.raises(ValueError, match=r"ca\.key is missing"):
            directory.load()


def test_a_key_of_another_ca_is_refused(directory, ca):
    with directory.locked():
        directory.save_key(OwnCA.create(NAMES))
        directory.save_certificate(ca)
        with pytest.raises(ValueError, match="does not belong"):
            directory.load()


class Host:
    """Stands in for the module on the host, and counts the round trips."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.keys: dict = {}
        self.chains: dict[str, str] = {}
        self.unfinished: set[str] = set()
        self.check_mode = False

    def execute(self, module_name, module_args, task_vars):
        assert module_name == "certificate_store"
        self.calls.append(module_args["state"])
        return getattr(self, module_args["state"])(**{k: v for k, v in module_args.items() if k != "state"})

    def reported(self, domains):
        return {
            "certificates": {
                domain: {
                    "chain": self.chains.get(domain),
                    "public_key": public_pem(self.keys[domain]) if domain in self.keys else None,
                    "unfinished": domain in self.unfinished,
                }
                for domain in domains
            }
        }

    def requested(self, domains, key_type):
        if self.check_mode:
            return {"requests": {}}
        self.keys.update({domain: ec.generate_private_key(ec.SECP256R1()) for domain in domains})
        return {"requests": {domain: request_of(self.keys[domain]) for domain in domains}}

    def installed(self, chains):
        self.chains.update(chains)
        self.unfinished -= set(chains)
        return {"changed": True}


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def deploy(host, tmp_path, monkeypatch):
    """Run the action for a list of domains."""

    def run(*domains: str, check_mode: bool = False, fallback: bool = False):
        host.calls.clear()
        host.check_mode = check_mode
        task = SimpleNamespace(check_mode=check_mode, diff=False)
        loader = SimpleNamespace(get_text_file_contents=lambda path: open(path).read())  # noqa: PTH123, SIM115
        action = ActionModule(task, SimpleNamespace(), SimpleNamespace(), loader, SimpleNamespace(), SimpleNamespace())
        arguments = {
            "directory": str(tmp_path / "ca"),
            "certificates": {domain: [domain, f"upload.{domain}"] for domain in domains},
            "key_type": "ecdsa-p256",
            "days": 90,
            "fallback": fallback,
        }
        monkeypatch.setattr(own_ca.ActionBase, "run", lambda *_: {})
        monkeypatch.setattr(action, "validate_argument_spec", lambda _specification: (None, arguments))
        monkeypatch.setattr(action, "_execute_module", host.execute)
        return action.run(task_vars={})

    return run


def test_the_first_deployment_makes_everything_and_the_second_nothing(deploy, host):
    first = deploy("example.org", "second.example")
    assert first["changed"]
    assert host.calls == ["reported", "requested", "installed"]
    assert not deploy("example.org", "second.example")["changed"]
    assert host.calls == ["reported"], "in good order the action costs one round trip"


def test_as_a_fallback_it_sees_to_those_alone_that_have_none(deploy, host):
    deploy("example.org")
    host.chains["example.org"] = "of another CA"
    result = deploy("example.org", "second.example", fallback=True)
    assert [change.partition(":")[0] for change in result["changes"][1:]] == ["second.example"]
    assert host.chains["example.org"] == "of another CA"
    assert not deploy("example.org", "second.example", fallback=True)["changed"]
    assert host.calls == ["reported"]


def test_check_mode_says_what_it_would_do_and_writes_nothing(deploy, host, tmp_path):
    result = deploy("example.org", check_mode=True)
    assert result["changes"] == [f"a new CA in {tmp_path}/ca", "example.org: a new certificate, as there is none"]
    assert not (tmp_path / "ca").exists()
    assert host.calls == ["reported"]


def test_check_mode_needs_no_key(deploy, host, tmp_path):
    deploy("example.org")
    (tmp_path / "ca" / "ca.key").unlink()
    assert not deploy("example.org", check_mode=True)["changed"]
    result = deploy("example.org", "upload.example.org", check_mode=True)
    assert result["changes"] == ["upload.example.org: a new certificate, as there is none"]
    assert deploy("second.example", check_mode=True)["warnings"], "the CA would have to cover it"
    with pytest.raises(AnsibleActionFail, match=r"ca.key is missing"):
        deploy("example.org")


def test_an_added_domain_leaves_the_others_alone_and_asks_for_the_new_ca_file(deploy, host):
    deploy("example.org")
    kept = host.chains["example.org"]
    result = deploy("example.org", "second.example")
    assert host.chains["example.org"] == kept
    assert "Give it to the clients" in result["warnings"][0]
    assert not deploy("example.org")["changed"], "a domain less does not narrow the CA again"


def test_a_deployment_that_was_cut_off_is_finished(deploy, host):
    deploy("example.org")
    host.unfinished.add("example.org")
    kept = host.chains["example.org"]
    assert deploy("example.org")["changed"]
    assert host.calls == ["reported", "installed"]
    assert host.chains["example.org"] == kept


def test_a_failure_on_the_host_ends_the_task_in_the_hosts_words(deploy, host, monkeypatch):
    monkeypatch.setattr(host, "installed", lambda chains: {"failed": True, "msg": "prosody refused it"})
    with pytest.raises(AnsibleActionFail, match="prosody refused it"):
        deploy("example.org")
