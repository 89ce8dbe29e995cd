"""The names of an XMPP service, normalised or refused with a sentence."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.xmpp import FilterModule, bare_jid, domain_name, virtual_hosts


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("example.org", "example.org"),
        ("Example.ORG.", "example.org"),
        ("a-b.1.example", "a-b.1.example"),
        ("chat.xn--p1ai", "chat.xn--p1ai"),
    ],
)
def test_domain_names_are_normalised(written, name):
    assert domain_name(written) == name


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "a domain name such as"),
        (None, "a domain name such as"),
        (7, "a domain name such as"),
        ("localhost", "not a single label"),
        ("192.0.2.1", "not an IP address"),
        ("2001:db8::1", "not a domain label"),
        ("exa_mple.org", "'exa_mple' is not a domain label"),
        ("-a.example", "'-a' is not a domain label"),
        ("a..example", "'' is not a domain label"),
        ("https://example.org", "not a domain label"),
        ("example.org/x", "not a domain label"),
        ("example.org\n", "not a domain label"),
        ("münchen.example", "internationalised"),
        ("xn--mnchen-3ya.example", "internationalised"),
        ("a" * 64 + ".example", "not a domain label"),
        ("a." * 127 + "example", "at most 253 characters"),
    ],
)
def test_other_domain_names_are_refused(written, reason):
    with pytest.raises(ValueError, match=reason):
        domain_name(written)


def test_addresses_are_normalised():
    assert bare_jid("Admin@Example.org") == "admin@example.org"


@pytest.mark.parametrize(
    "written", ["admin", "@example.org", "a b@example.org", "a@b@example.org", "a@example.org/phone", "a@-", None, 1]
)
def test_other_addresses_are_refused(written):
    with pytest.raises(ValueError, match=r"wanted|holds|label"):
        bare_jid(written)


def test_a_domain_alone_gets_its_components():
    assert virtual_hosts([{"domain": "Example.org"}]) == [
        {
            "domain": "example.org",
            "muc": "conference.example.org",
            "upload": "upload.example.org",
            "web": "example.org",
            "names": ["example.org", "conference.example.org", "upload.example.org"],
        }
    ]


def test_components_can_be_named_and_switched_off():
    entry = {"domain": "example.org", "muc": "rooms.example.org", "upload": False, "web": "chat.example.org"}
    assert virtual_hosts([entry]) == [
        {**entry, "upload": None, "names": ["example.org", "rooms.example.org", "chat.example.org"]}
    ]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([], "at least one entry"),
        (None, "a list of entries"),
        ("example.org", "a list of entries"),
        ({"domain": "example.org"}, "a list of entries"),
        (["example.org"], r"\[0\]: an entry"),
        ([{"muc": "rooms.example.org"}], r"\[0\]: domain is missing"),
        ([{"domain": "example.org", "proxy": "x"}], r"\[0\]: unknown key proxy"),
        ([{"domain": "example.org"}, {"domain": "a b"}], r"\[1\]\.domain is 'a b'"),
        ([{"domain": "example.org", "muc": True}], r"\[0\]\.muc is True"),
        ([{"domain": "example.org", "muc": None}], r"\[0\]\.muc is None"),
        ([{"domain": "a.example"}, {"domain": "A.example"}], r"a\.example is both \[0\]\.domain and \[1\]\.domain"),
        ([{"domain": "a.example", "muc": "a.example"}], r"a\.example is both \[0\]\.domain and \[0\]\.muc"),
        ([{"domain": "a.example"}, {"domain": "upload.a.example"}], r"is both \[0\]\.upload and \[1\]\.domain"),
        ([{"domain": "a.example", "web": "b.example"}, {"domain": "b.example"}], r"\[0\]\.web and \[1\]\.domain"),
        ([{"domain": "a.example", "web": "upload.a.example"}], r"\[0\]\.upload and \[0\]\.web"),
    ],
)
def test_other_hosts_are_refused(entries, reason):
    with pytest.raises(ValueError, match=reason):
        virtual_hosts(entries)


def test_the_filter_speaks_as_ansible_does():
    with pytest.raises(AnsibleFilterError, match=r"virtual_hosts: .*'a b' is not a domain label"):
        FilterModule().filters()["virtual_hosts"]([{"domain": "a b.example"}])
