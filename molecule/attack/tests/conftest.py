"""The stage, and the campaign of attacks that is led on it once."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from attacks import CATALOGUE, Attack
from attacks.catalogue import Outcome
from attacks.members import ping
from attacks.stage import Origin, Victim, inside

from verification import targets
from verification.conftest import (
    evidence,
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    target,
)
from verification.probes.tls import Refused
from verification.probes.xmpp import Refusal

ATTACKERS = ("mallory", "trudy")
WEB = {"ours": 443, "stock": 5281}
WAITING = 12  # attacks that wait, at once


@dataclass
class Campaign:
    """What became of the attacks.

    Attributes:
        outcomes: server -> attack -> its outcome, or what went wrong with the attack itself.
        pings: server -> requests of a well-behaved client that were answered meanwhile.
        lost: server -> how its session ended, if it did.
        memory: server -> what its process held before the attacks and after them, in MiB.
    """

    outcomes: dict[str, dict[str, Future[Outcome]]] = field(default_factory=dict)
    pings: dict[str, int] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)


@pytest.fixture(scope="session")
def inventory(pytestconfig: pytest.Config) -> str:
    """The inventory of the scenario."""
    return pytestconfig.getoption("ansible_inventory")


@pytest.fixture(scope="session")
def origins(inventory: str) -> dict[str, Origin]:
    """The hosts of the stage that are no servers."""
    names = [*ATTACKERS, "office"]
    return {name: Origin(name, inside(inventory, name), targets.load(inventory, name)) for name in names}


@pytest.fixture(scope="session")
def victims(inventory: str, origins: dict[str, Origin], pytestconfig: pytest.Config) -> Iterator[dict[str, Victim]]:
    """Both servers."""
    accounts = yaml.safe_load(Path(pytestconfig.getoption("accounts")).read_text())
    with contextlib.ExitStack() as ways:
        yield {name: victim(inventory, name, origins, accounts, ways) for name in WEB}


def victim(inventory, name, origins, accounts, ways) -> Victim:
    """A server, with ways to it from everywhere."""
    server = targets.load(inventory, name)
    passwords = {account["jid"]: account["password"] for account in accounts}
    return Victim(
        *(ways.enter_context(origin.way_to(server)) for origin in origins.values()),
        tuple(origins[name] for name in ATTACKERS),
        origins["office"],
        inside(inventory, name),
        {who: passwords[f"{who}@{server.domain}"] for who in ("alice", "bob", "carol")},
        Path(server.variables["certificates"]),
        WEB[name],
    )


@pytest.fixture(scope="session")
def campaign(victims: dict[str, Victim]) -> Campaign:
    """Every attack on both servers: those that measure alone, one after another; then the others on both at once.

    Those that wait run beside them.
    """
    campaign = Campaign(outcomes={name: {} for name in victims})
    victims["stock"].host.check_output("systemctl restart prosody")  # whose memory no earlier campaign has filled
    victims["stock"].seconds_away()
    before = {name: victim.memory() for name, victim in victims.items()}
    over = threading.Event()
    with ThreadPoolExecutor(2 * WAITING + 4) as pool:
        watching = [pool.submit(watch, name, victim, campaign, over) for name, victim in victims.items()]
        for attack in (attack for attack in CATALOGUE if attack.measures):
            for name, victim in victims.items():
                campaign.outcomes[name][attack.name] = tried(attack, victim)
        leading = [pool.submit(lead, name, victim, campaign, pool) for name, victim in victims.items()]
        for led in leading:
            led.result()
        over.set()
        for watched in watching:
            watched.result()
    campaign.memory = {name: (before[name], victim.memory()) for name, victim in victims.items()}
    return campaign


def lead(name: str, victim: Victim, campaign: Campaign, pool: ThreadPoolExecutor) -> None:
    """Attack one server."""
    found = campaign.outcomes[name]
    for attack in sorted((attack for attack in CATALOGUE if not attack.measures), key=lambda attack: not attack.waits):
        if attack.waits:
            found[attack.name] = pool.submit(attack.on, victim)
        else:
            found[attack.name] = tried(attack, victim)
    for waiting in found.values():
        waiting.exception()


def tried(attack: Attack, victim: Victim) -> Future[Outcome]:
    """What became of an attack, at once."""
    future: Future[Outcome] = Future()
    try:
        future.set_result(attack.on(victim))
    except BaseException as error:
        future.set_exception(error)
    return future


def watch(name: str, victim: Victim, campaign: Campaign, over: threading.Event) -> None:
    """Be a well-behaved client until it is over."""
    campaign.pings[name] = 0
    try:
        with victim.log_in("alice", victim.office) as alice:
            while not over.wait(0.5):
                ping(alice)
                campaign.pings[name] += 1
    except (Refusal, Refused, OSError, TimeoutError) as ended:
        campaign.lost[name] = str(ended) or type(ended).__name__
