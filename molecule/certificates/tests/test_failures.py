"""Whatever fails, a valid certificate stays in service, and the operator is told.

After each test the server is as before.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator

import pytest

STORE = "/etc/portcullis/certificates"
ACME = "/etc/portcullis/acme"
FIRST, SECOND = "one.example", "two.example"


@pytest.fixture
def full(host):
    """A function during which the file system of a directory has so many free blocks of 4 KiB, whatever is written."""

    @contextlib.contextmanager
    def fill(directory: str, blocks: int) -> Iterator[None]:
        path = shlex.quote(directory)
        with host.sudo():
            host.check_output(
                f"set -e; kept=$(mktemp -d); cp -a {path}/. $kept;"
                f"mount -t tmpfs -o size=1m full {path}; cp -a $kept/. {path}; rm -r $kept;"
                f"used=$(df -k --output=used {path} | tail -1);"
                f"mount -t tmpfs -o remount,size=$((used + 4 * {blocks}))k full {path}"
            )
        try:
            yield
        finally:
            with host.sudo():
                host.check_output(
                    f"set -e; kept=$(mktemp -d); cp -a {path}/. $kept; umount {path};"
                    f"find {path} -mindepth 1 -delete; cp -a $kept/. {path}; rm -r $kept"
                )

    return fill


@pytest.fixture
def ca_unasked(name_server):
    """A function during which the CA must not be asked for a certificate."""

    @contextlib.contextmanager
    def watch() -> Iterator[None]:
        since = name_server.check_output("date +%s")
        yield
        with name_server.sudo():
            assert "order" not in name_server.check_output("journalctl -u pebble@lasting -o cat --since=@%s", since)

    return watch


@pytest.fixture
def deaf(host):
    """A function during which a service's reload says that it went well, and does nothing."""

    @contextlib.contextmanager
    def plug(service: str) -> Iterator[None]:
        drop_in = f"/run/systemd/system/{service}.service.d/test.conf"
        with host.sudo():
            host.check_output(f"mkdir -p $(dirname {drop_in})")
            host.check_output(f"printf '[Service]\\nExecReload=\\nExecReload=/bin/true\\n' > {drop_in}")
            host.check_output("systemctl daemon-reload")
        try:
            yield
        finally:
            with host.sudo():
                host.check_output(f"rm {drop_in} && systemctl daemon-reload")

    return plug


@pytest.mark.control("CERT-12")
def test_the_ca_is_down(order, served, told, without_ca, evidence):
    before = served(FIRST)
    with without_ca():
        assert order("--renew", FIRST).rc == 1
        assert served(FIRST) == before
        evidence(told(FIRST, "the CA does not answer"))


@pytest.mark.control("CERT-12")
def test_the_account_binding_is_wrong(host, order, served, told, evidence):
    before = served(FIRST)
    with host.sudo():
        host.check_output(f"cp {ACME}/certbot.ini {ACME}/certbot.ini.kept; mv {ACME}/certbot/accounts {ACME}/kept")
        host.check_output(f"sed -i 's/^eab-hmac-key = .*/eab-hmac-key = {'A' * 64}/' {ACME}/certbot.ini")
    try:
        result = order("--renew", FIRST)
        assert "A" * 64 not in result.stderr
        assert served(FIRST) == before
        evidence(told(FIRST, "Unable to register an account"))
    finally:
        with host.sudo():
            host.check_output(f"mv {ACME}/certbot.ini.kept {ACME}/certbot.ini")
            host.check_output(f"rm -rf {ACME}/certbot/accounts; mv {ACME}/kept {ACME}/certbot/accounts")


@pytest.mark.control("CERT-12")
def test_one_challenge_fails_and_the_other_domain_is_renewed(order, served, told, zone, name_server, evidence):
    before = {domain: served(domain) for domain in (FIRST, SECOND)}
    name = f"rooms.{SECOND}"
    elsewhere = name_server.check_output("dig +short @127.0.0.1 ns.example A").strip()
    with zone(name, "A", elsewhere), zone(name, "AAAA"):
        assert order("--renew").rc == 1
        assert served(FIRST) != before[FIRST]
        assert served(SECOND) == before[SECOND]
        evidence(told(SECOND, name))
    evidence(f"{FIRST} has a new certificate meanwhile")


@pytest.mark.control("CERT-13")
@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [("A", "", "has no address"), ("CAA", '0 issue "ca.example"', "the CAA records")],
    ids=["no address", "CAA of another CA"],
)
def test_the_ca_is_not_asked_for_what_it_must_refuse(
    kind, content, words, order, served, told, zone, ca_unasked, evidence
):
    before = served(SECOND)
    name = f"rooms.{SECOND}" if kind == "A" else SECOND
    with ca_unasked(), zone(name, kind, content), zone(name, "AAAA") if kind == "A" else contextlib.nullcontext():
        assert order("--renew", SECOND).rc == 1
        evidence(told(SECOND, words))
    assert served(SECOND) == before


@pytest.mark.control("CERT-13")
def test_a_name_that_leads_to_another_web_server_is_found(order, served, told, zone, name_server, ca_unasked, evidence):
    before = served(SECOND)
    name = f"rooms.{SECOND}"
    elsewhere = name_server.check_output("dig +short @127.0.0.1 ns.example A").strip()
    with name_server.sudo():
        name_server.check_output("systemd-run --unit=another-server python3 -m http.server 80")
    try:
        with ca_unasked(), zone(name, "A", elsewhere), zone(name, "AAAA"):
            assert order("--renew", SECOND).rc == 1
            evidence(told(SECOND, f"{name} leads to {elsewhere}, where another server answers"))
    finally:
        with name_server.sudo():
            name_server.check_output("systemctl stop another-server")
    assert served(SECOND) == before


@pytest.mark.control("CERT-13")
@pytest.mark.parametrize("shift", ["+20d", "-20d"])
def test_the_clock_is_wrong(shift, order, served, faketime, ca_unasked, evidence):
    before = served(FIRST)
    with ca_unasked():
        result = order("--renew", FIRST, prefix=faketime(shift))
    assert result.rc == 1
    assert "this host's clock says" in result.stderr
    assert served(FIRST) == before
    assert order("--renew", FIRST).rc == 0, "the clock is right again"
    evidence(result.stderr.splitlines()[0])


@pytest.mark.control("CERT-02")
@pytest.mark.control("CERT-07")
@pytest.mark.parametrize(
    ("service", "words"),
    [("prosody", "presents another certificate"), ("nginx", "nginx does not serve")],
)
def test_a_service_that_goes_on_with_the_old_one_is_found_out(service, words, order, served, told, deaf, evidence):
    """Renewed on disk and never served: the reload says that it went well."""
    before = served(FIRST)
    with deaf(service):
        assert order("--renew", FIRST).rc == 1
        assert served(FIRST) == before
        told(FIRST, words)
    assert order("--now", FIRST).rc == 0
    assert served(FIRST) != before
    evidence(f"{service} that does not reload: found out by its ports, and the pair before it put back")


@pytest.mark.control("CERT-07")
def test_a_hook_fails_and_the_next_attempt_orders_nothing(host, order, served, told, hook, evidence):
    before = served(FIRST)
    issued = f"sha256sum {ACME}/issued/{FIRST}.json"
    with hook("zz-refuses", "exit 1"):
        assert order("--renew", FIRST).rc == 1
        assert served(FIRST) == before
        evidence(told(FIRST, "zz-refuses failed with status 1"))
    with host.sudo():
        kept = host.check_output(issued)
        assert order("--now", FIRST).rc == 0
        assert host.check_output(issued) == kept
    assert served(FIRST) != before


@pytest.mark.control("CERT-07")
def test_the_key_is_another_certificate_s(host, order, served, told, evidence):
    before = served(FIRST)
    issued = f"{ACME}/issued/{FIRST}.json"
    with host.sudo():
        host.check_output(
            "python3 -c 'import json, sys; first, second = map(json.load, map(open, sys.argv[1:]));"
            'first["key"] = second["key"]; json.dump(first, open(sys.argv[1], "w"))\' %s %s',
            issued,
            issued.replace(FIRST, SECOND),
        )
    assert order("--now", FIRST).rc == 1
    assert served(FIRST) == before
    evidence(told(FIRST, "the private key does not belong to the certificate"))
    assert order("--renew", FIRST).rc == 0


@pytest.mark.control("CERT-11")
def test_killed_between_writing_and_reloading(order, served, told, hook, evidence):
    before = served(FIRST)
    with hook("00-dies", "kill -9 $PPID"):
        assert order("--renew", FIRST).rc == 1
        assert served(FIRST) == before
        told(FIRST, "failed with -9")
    assert "the certificate had not reached every service" in order("--now", FIRST).stdout
    assert served(FIRST) != before
    evidence("killed before the first service was told: the next run told them all")


@pytest.mark.control("CERT-12")
@pytest.mark.parametrize("blocks", [0, 1])
@pytest.mark.parametrize("directory", [f"{STORE}/{FIRST}", "/etc/prosody/certs"])
def test_the_disk_is_full(directory, blocks, order, served, told, full, evidence):
    before = served(FIRST)
    with full(directory, blocks):
        assert order("--renew", FIRST).rc == 1
        assert served(FIRST) == before
        evidence(told(FIRST, "No space left on device"))
    assert order("--now", FIRST).rc == 0
    assert served(FIRST) != before


@pytest.mark.control("CERT-12")
def test_without_the_ca_the_first_deployment_leaves_a_whole_server(host, deploy, served, told, without_ca, evidence):
    with host.sudo():
        host.check_output(f"rm -rf {STORE}/{SECOND} {ACME}/issued/{SECOND}.json")
    with without_ca():
        outcome = deploy()
        assert "Portcullis private CA" in served(SECOND).issuer.rfc4514_string()
        told(SECOND, "the CA does not answer")
    assert outcome.returncode == 2
    assert "Everything is deployed, but a certificate is not as it should be" in outcome.stdout
    assert "the CA does not answer" in outcome.stdout
    evidence("the play fails at its end and says why; every port serves a certificate of the private CA")
