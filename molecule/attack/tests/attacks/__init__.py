"""The catalogue of attacks: one function each, in a module for each side that is attacked."""

from __future__ import annotations

from . import connections, encryption, federation, impersonation, members, passwords, rooms, uploads, web, xml
from .catalogue import CATALOGUE, Attack, Verdict

__all__ = ["CATALOGUE", "Attack", "Verdict"]
# In the order in which they are told, and run: what stops others last.
MODULES = [encryption, xml, passwords, impersonation, members, rooms, uploads, federation, web, connections]
CATALOGUE.sort(key=lambda attack: [module.__doc__ for module in MODULES].index(attack.area))
