"""What judges that are not ours say, under their own names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from verification.probes import judges, lynis


@pytest.fixture
def ports(target) -> list[int]:
    """The ports that are offered, and meant to be."""
    wanted = [port for port in judges.PORTS if port not in target.absent]
    return [port for port in wanted if target.federates or port not in (judges.xmpp.S2S, judges.xmpp.S2S_DIRECT)]


@pytest.mark.control("TLS-10")
def test_sslyze_agrees_with_mozilla(target, ports, evidence):
    findings = []
    for port, opinion in sorted(judges.against_mozilla(target, ports)):
        evidence(f"{port} {opinion.line}")
        findings += [f"{port}: {finding}" for finding in opinion.findings]
    assert not findings, "; ".join(findings)


@pytest.mark.control("TLS-11")
def test_testssl_finds_nothing(pytestconfig, target, ports, evidence):
    if not pytestconfig.getoption("--judges"):
        pytest.skip("not shown: testssl.sh takes minutes; add --judges")
    if not judges.testssl():
        pytest.skip("not shown: testssl.sh is not installed on this machine")
    with ThreadPoolExecutor(len(ports)) as pool:
        opinions = dict(zip(ports, pool.map(lambda port: judges.by_testssl(target, port), ports), strict=True))
    for port, opinion in opinions.items():
        evidence(f"{port} {opinion.line}")
    findings = [f"{port}: {finding}" for port, opinion in opinions.items() for finding in opinion.findings]
    assert not findings, "; ".join(findings)


@pytest.mark.control("HOST-09")
def test_lynis_warns_of_nothing(pytestconfig, host, evidence):
    if not pytestconfig.getoption("--judges"):
        pytest.skip("not shown: lynis takes a minute; add --judges")
    if not lynis.installed():
        pytest.skip("not shown: lynis is not installed on this machine")
    opinion = lynis.opinion(host)
    evidence(opinion.line)
    assert not opinion.findings, "; ".join(opinion.findings)
