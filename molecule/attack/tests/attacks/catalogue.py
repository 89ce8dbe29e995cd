"""What an attack is, and what becomes of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from verification.probes.tls import Refused
from verification.probes.xmpp import Refusal

if TYPE_CHECKING:
    from .stage import Victim

Run = Callable[["Victim"], str]


class Verdict(Enum):
    """How a server stands an attack."""

    WITHSTANDS = "withstands"
    IS_SLOWED = "is slowed"
    GIVES_IN = "gives in"
    ABSENT = "not offered"


WITHSTANDS, IS_SLOWED, GIVES_IN, ABSENT = Verdict


class Succeeded(Exception):
    """The attack did what it wanted; the text says what."""


class Slowed(Exception):
    """The server withstands, but others have to wait; the text says how long."""


class NotOffered(Exception):
    """The server has nothing there that could be attacked."""


@dataclass(frozen=True)
class Outcome:
    """What became of an attack, in words."""

    verdict: Verdict
    words: str


@dataclass(frozen=True)
class Attack:
    """One hostile input.

    Attributes:
        name: of the attack, one word.
        title: what is tried.
        area: what is attacked: the first words of the module's docstring.
        run: tries it, and returns how the server withstood it, in words; raises Succeeded, Slowed, NotOffered.
        stock: how a stock server stands it; None where that depends on the machine.
        controls: the controls of the catalogue that stand against it.
        waits: it does little but wait, so that it runs beside the others.
        measures: it compares times, so that nothing runs beside it.
    """

    name: str
    title: str
    area: str
    run: Run
    stock: Verdict | None
    controls: tuple[str, ...]
    waits: bool = False
    measures: bool = False

    def on(self, victim: Victim) -> Outcome:
        """Attack. Whatever is neither success nor failure is raised."""
        try:
            return Outcome(WITHSTANDS, self.run(victim))
        except Slowed as slowed:
            return Outcome(IS_SLOWED, str(slowed))
        except Succeeded as success:
            return Outcome(GIVES_IN, str(success))
        except NotOffered as absent:
            return Outcome(ABSENT, str(absent) or ABSENT.value)


CATALOGUE: list[Attack] = []


def attack(title: str, *controls: str, stock: Verdict | None, **how: bool) -> Callable[[Run], Run]:
    """Put a function into the catalogue under its name; `how` says that it waits or measures."""

    def put(run: Run) -> Run:
        area = sys.modules[run.__module__].__doc__ or ""
        CATALOGUE.append(Attack(run.__name__.replace("_", "-"), title, area, run, stock, controls, **how))
        return run

    return put


def refusal(action: Callable[[], object], success: str) -> str:
    """How the server refuses what the action tries. Raises Succeeded with these words when it does not."""
    try:
        action()
    except (Refusal, Refused) as refused:
        return str(refused)
    raise Succeeded(success)


def judge(withstood: bool, words: str) -> str:
    """The words, as the server's success or the attack's. Raises Succeeded."""
    if not withstood:
        raise Succeeded(words)
    return words
