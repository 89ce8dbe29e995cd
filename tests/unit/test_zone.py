"""The records that virtual hosts need, how they are written, and what counts as a difference."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from plugins.filter.xmpp import virtual_hosts
from plugins.zone.check import Finding, report
from plugins.zone.records import NOT_OFFERED, RecordSet, needed, notes, snippet

ADDRESSES = ["192.0.2.1", "2001:db8::1"]
ISSUER = "ca.example; validationmethods=dns-01; accounturi=https://ca.example/acct/1"
PUBLIC_KEY = (
    ec.generate_private_key(ec.SECP256R1())
    .public_key()
    .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    .decode()
)


def records(entry: dict, **options) -> dict[tuple[str, str], tuple[str, ...]]:
    """The record sets of one virtual host by name and type."""
    (sets,) = needed(virtual_hosts([entry]), ADDRESSES, **options).values()
    assert len({(item.name, item.kind) for item in sets}) == len(sets)
    return {(item.name, item.kind): item.data for item in sets}


def test_a_domain_alone_needs_addresses_and_services():
    assert records({"domain": "a.example"}) == {
        **{(name, "A"): ("192.0.2.1",) for name in ("a.example", "conference.a.example", "upload.a.example")},
        **{(name, "AAAA"): ("2001:db8::1",) for name in ("a.example", "conference.a.example", "upload.a.example")},
        ("_xmpp-client._tcp.a.example", "SRV"): ("0 5 5222 a.example.",),
        ("_xmpps-client._tcp.a.example", "SRV"): ("0 5 5223 a.example.",),
        ("_xmpp-server._tcp.a.example", "SRV"): ("0 5 5269 a.example.",),
        ("_xmpps-server._tcp.a.example", "SRV"): ("0 5 5270 a.example.",),
        ("_xmpp-server._tcp.conference.a.example", "SRV"): ("0 5 5269 a.example.",),
        ("_xmpps-server._tcp.conference.a.example", "SRV"): ("0 5 5270 a.example.",),
    }


def test_the_address_of_a_website_elsewhere_is_left_alone():
    entry = {"domain": "a.example", "web": "xmpp.a.example", "muc": False}
    found = records(entry)
    assert ("a.example", "A") not in found
    assert found["xmpp.a.example", "A"] == ("192.0.2.1",)
    assert found["_xmpp-client._tcp.a.example", "SRV"] == ("0 5 5222 xmpp.a.example.",)
    assert "host-meta" in "".join(notes(virtual_hosts([entry])))
    assert not list(notes(virtual_hosts([{"domain": "a.example"}])))


def test_a_service_that_is_off_is_said_to_be_off():
    found = records({"domain": "a.example"}, federation=False)
    assert found["_xmpp-server._tcp.a.example", "SRV"] == (NOT_OFFERED,)
    assert found["_xmpps-server._tcp.conference.a.example", "SRV"] == (NOT_OFFERED,)
    assert found["_xmpp-client._tcp.a.example", "SRV"] == ("0 5 5222 a.example.",)


def test_without_an_address_of_a_family_there_must_be_none():
    (sets,) = needed(virtual_hosts([{"domain": "a.example"}]), ["192.0.2.1"]).values()
    assert RecordSet("a.example", "AAAA", ()) in sets
    assert Finding(RecordSet("a.example", "AAAA", ()), ("2001:db8::bad",)).state == "differs"
    assert Finding(RecordSet("a.example", "AAAA", ()), ()).state == "good"


def test_issuers_stand_at_the_domain_and_at_names_outside_it():
    found = records({"domain": "a.example", "web": "chat.b.example"}, issuers=[ISSUER])
    assert [name for name, kind in found if kind == "CAA"] == ["a.example", "chat.b.example"]


def test_keys_stand_at_the_name_that_the_services_have():
    data = {"a.example": {"ports": [5222, 5269], "public_key": PUBLIC_KEY}}
    found = records({"domain": "a.example", "web": "xmpp.a.example"}, tlsa_data=data)
    names = [name for name, kind in found if kind == "TLSA"]
    assert names == ["_5222._tcp.xmpp.a.example", "_5269._tcp.xmpp.a.example"]
    assert found[names[0], "TLSA"][0].startswith("3 1 1 ")


SRV = RecordSet.of("_xmpp-client._tcp.a.example", "SRV", ["0 5 5222 a.example."])
CAA = RecordSet.of("a.example", "CAA", [f'0 issue "{ISSUER}"'])
TLSA = RecordSet.of("_443._tcp.a.example", "TLSA", [f"3 1 1 {'ab' * 32}"])


@pytest.mark.parametrize(
    ("wanted", "there", "state"),
    [
        (SRV, (), "missing"),
        (SRV, ("0 5 5222 a.example.",), "good"),
        (SRV, ("10 0 5222 A.example.",), "good"),
        (SRV, ("0 5 5223 a.example.",), "differs"),
        (SRV, ("0 5 5222 b.example.",), "differs"),
        (SRV, ("0 5 5222 a.example.", "5 5 5222 b.example."), "differs"),
        (CAA, (), "missing"),
        (CAA, CAA.data, "good"),
        (CAA, (f'0 issue "{ISSUER.replace("; ", ";")}"',), "good"),
        (CAA, (*CAA.data, '0 issue "another.example"', '0 iodef "mailto:a@a.example"'), "good"),
        (CAA, ('0 issue "another.example"',), "differs"),
        (CAA, ('0 issue "ca.example"',), "differs"),
        (CAA, (*CAA.data, '0 issue "ca.example"'), "differs"),
        (TLSA, (), "missing"),
        (TLSA, (*TLSA.data, f"3 1 1 {'cd' * 32}"), "good"),
        (TLSA, (f"3 1 1 {'cd' * 32}",), "differs"),
    ],
)
def test_what_counts_as_a_difference(wanted, there, state):
    assert Finding(wanted, there).state == state


@pytest.fixture(scope="module")
def zones() -> dict[str, list[RecordSet]]:
    """The records of two virtual hosts with everything on."""
    hosts = virtual_hosts([{"domain": "a.example"}, {"domain": "b.example", "web": "xmpp.b.example", "upload": False}])
    data = {"a.example": {"ports": [5222], "public_key": PUBLIC_KEY}}
    return needed(hosts, ADDRESSES, issuers=[ISSUER], tlsa_data=data)


def test_the_snippet_is_a_zone_file(zones):
    written = snippet(zones, 300)
    assert '\na.example.                               300 IN CAA  0 issue "ca.example; ' in written
    assert "; b.example\n" in written
    assert written.count("\n") == 2 + sum(len(entry.data) for entries in zones.values() for entry in entries)


@pytest.mark.skipif(not shutil.which("named-checkzone"), reason="the scenario certificates has it")
def test_named_takes_the_snippet(zones, tmp_path):
    file = tmp_path / "zone"
    file.write_text(f"$TTL 1\n@ SOA ns hostmaster 1 1 1 1 1\n@ NS ns\nns A 192.0.2.53\n{snippet(zones, 300)}")
    subprocess.run(["named-checkzone", "example", file], check=True)


def test_the_report_says_what_is_missing_and_what_is_there_instead(zones):
    findings = {
        domain: [
            Finding(entry, ("0 5 1 x.example.",) if "_xmpp-client" in entry.name else entry.data) for entry in sets
        ]
        for domain, sets in zones.items()
    }
    findings["a.example"][0] = Finding(findings["a.example"][0].wanted, ())
    said = report(findings, 300, {"_5222._tcp.a.example": False}, ["Mind the gap."])
    assert "✗ a.example.                               A    192.0.2.1\n" in said
    assert "≠ _xmpp-client._tcp.a.example.             SRV  0 5 5222 a.example.\n" in said
    assert "there is 0 5 1 x.example." in said
    assert "✓ _xmpps-client._tcp.a.example.            SRV  0 5 5223 a.example.\n" in said
    assert "does not vouch for _5222._tcp.a.example" in said
    assert "! Mind the gap." in said
    todo = said.partition("To be created, or to replace what differs:")[2]
    assert todo.count(" IN ") == 3


def test_when_all_is_well_there_is_nothing_to_create(zones):
    said = report(
        {domain: [Finding(entry, entry.data) for entry in entries] for domain, entries in zones.items()},
        300,
        {"_5222._tcp.a.example": True},
    )
    assert not {"✗", "≠", "!"} & set(said)
    assert "To be created" not in said
    assert "vouches for the TLSA records" in said
