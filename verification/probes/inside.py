"""A look inside a running Prosody, through testinfra: reading alone."""

from __future__ import annotations

import json

DATA = "/var/lib/prosody"


def query(host, statement: str) -> list[list]:
    """Rows of Prosody's SQLite database, opened read-only."""
    program = (
        "import json, sqlite3, sys; "
        f"database = sqlite3.connect('file:{DATA}/prosody.sqlite?mode=ro', uri=True); "
        "print(json.dumps(database.execute(sys.argv[1]).fetchall()))"
    )
    return json.loads(host.check_output("python3 -c %s %s", program, statement))


def setting(host, domain: str, option: str) -> str:
    """An option of the running configuration, as Prosody's shell prints it."""
    expression = f'> require"prosody.core.configmanager".get("{domain}", "{option}")'
    return host.check_output("prosodyctl shell %s", expression).strip().rpartition(": ")[2]
