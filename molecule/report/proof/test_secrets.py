"""What a report must not hold, whatever became of the verification; run last, when the reports are there."""

from __future__ import annotations

import json

import yaml
from conftest import INVENTORY, LAB, REPORTS, verify

WRONG = "not-the-password-of-anybody"


def passwords() -> set[str]:
    """Every password that the verifications of this stage were given."""
    files = ("accounts.yml", "accounts-of-others.yml")
    given = [account for file in files for account in yaml.safe_load((LAB / file).read_text(encoding="utf-8"))]
    return {account["password"] for account in given} | {WRONG}


def test_a_wrong_password_is_a_line_and_a_report(tmp_path):
    accounts = tmp_path / "accounts.yml"
    accounts.write_text(json.dumps([{"jid": f"{name}@plain.example", "password": WRONG} for name in ("alice", "bob")]))
    options = ["--accounts", accounts, "--only", "TLS-01,CHAT-01"]
    ended = verify("wrong-password", "-i", INVENTORY, *options)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    told = json.loads((REPORTS / "wrong-password/verify.json").read_text(encoding="utf-8"))
    problems = [problem.partition(" is refused: not-authorized")[0] for problem in told["problems"]]
    assert problems == [f"--accounts: {name}@plain.example" for name in ("alice", "bob")]
    status = {(entry["host"], entry["id"]): entry["status"] for entry in told["controls"]}
    assert (status["plain", "TLS-01"], status["plain", "CHAT-01"]) == ("proven", "not_shown")


def test_no_report_holds_a_password():
    texts = [path.read_text(encoding="utf-8") for path in REPORTS.rglob("verify.*")]
    assert len(texts) >= 9
    assert not [password for password in passwords() if any(password in text for text in texts)]
