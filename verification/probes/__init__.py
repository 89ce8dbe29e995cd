"""Clients that speak to a server from outside: what they offer, what comes back, verbatim."""
