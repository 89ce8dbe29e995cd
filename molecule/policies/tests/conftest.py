"""The fixtures of the verification."""

from verification.conftest import evidence, given_accounts, target  # noqa: F401
