"""The second factor as it is deployed: where it is in force, who has it, and how its secrets are kept."""

from __future__ import annotations

import base64
import binascii
import re

import pytest

from verification.probes.inside import DATA, query, setting

KEY = "/etc/portcullis/mfa/master.key"
COPY = "/etc/prosody/secrets/mfa.key"
SEALED = 12 + 16  # octets of nonce and tag that AES-256-GCM adds


@pytest.fixture
def policies(target) -> dict[str, str]:
    """The policy of each virtual host that has one."""
    variables = target.variables
    policies = dict.fromkeys(target.domains, variables["mfa_policy"]) | dict(variables["mfa_host_policies"])
    found = {domain: policy for domain, policy in policies.items() if policy != "off"}
    if not found:
        pytest.skip("nothing to show: the second factor is off")
    return found


@pytest.mark.control("MFA-14")
def test_the_second_factor_is_in_force_where_it_is_meant_to_be(host, policies, evidence):
    for domain, policy in policies.items():
        running = {option: setting(host, domain, option) for option in ("authentication", "mfa_policy")}
        evidence(f"{domain}: {running['mfa_policy']}, accounts log in through {running['authentication']}")
        assert running == {"authentication": "mfa", "mfa_policy": policy}


@pytest.mark.control("MFA-05")
def test_administrators_have_a_second_factor(host, target, policies, evidence):
    if target.variables["mfa_admins_policy"] != "required":
        pytest.skip("nothing to show: mfa_admins_policy is optional")
    seen = 0
    for admin in target.variables["prosody_admins"]:
        if admin.partition("@")[2] not in policies or host.run("prosodyctl shell user role %s", admin).rc != 0:
            continue
        seen += 1
        said = host.check_output("prosodyctl shell mfa status %s", admin)
        status = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
        evidence(f"{admin}: enrolled {status['enrolled']}, must enrol by {status.get('must enrol by', 'now')}")
        assert status["required"] == "yes"
        assert status["enrolled"] == "yes" or status["must enrol by"] != "never"
    if not seen:
        pytest.skip("not shown: no administrator has an account yet")


@pytest.mark.control("MFA-06")
def test_the_master_key_is_apart_from_the_data(host, policies, evidence):
    for path, mode, group in ((KEY, 0o600, "root"), (COPY, 0o640, "prosody")):
        file = host.file(path)
        evidence(f"{path} {file.mode:o} {file.user}:{file.group}")
        assert (file.mode, file.user, file.group) == (mode, "root", group)
    assert host.file(KEY).content == host.file(COPY).content
    attempt = host.run(f"setpriv --reuid=nobody --regid=nogroup --clear-groups cat {COPY}")
    assert attempt.rc != 0, "everybody on the host can read it"
    inside = host.run(f"grep --recursive --fixed-strings --files-with-matches --file={KEY} {DATA}")
    assert not inside.stdout, f"the key is in {inside.stdout}"


@pytest.mark.control("MFA-06")
def test_secrets_are_sealed_in_the_data(host, policies, evidence):
    if not host.file(f"{DATA}/prosody.sqlite").exists:
        pytest.skip("not shown: accounts are not in SQLite")
    rows = query(host, "select value from prosody where store = 'mfa' and key in ('key', 'secret')")
    for (value,) in rows:
        try:
            sealed = base64.b64decode(value, validate=True)
        except binascii.Error:
            pytest.fail("a secret is kept in clear")
        assert len(sealed) >= SEALED + 20, "a secret is kept in clear"
    tokens = query(host, "select count(*) from prosody where store = 'fast_tokens' and value like '%secret-token%'")
    evidence(f"{len(rows)} secrets of apps and accounts, each sealed; no token in clear")
    assert tokens == [[0]], "tokens are kept in clear"


@pytest.mark.control("MFA-06")
def test_no_secret_is_in_the_log(host, policies, evidence):
    lines = host.check_output("journalctl --no-pager --quiet --output=cat --unit=prosody --lines=20000").splitlines()
    events = [line for line in lines if "mfa event=" in line]
    telling = [line for line in lines if re.search(r"otpauth:|secret-token:|\b([a-z2-7]{4}-){5}[a-z2-7]{4}\b", line)]
    evidence(f"{len(events)} events of the second factor among {len(lines)} lines, no secret")
    assert not telling, "the log holds a secret"
