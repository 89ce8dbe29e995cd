"""The program that brings a write-ahead log into the database, beside one that writes all the time."""

from __future__ import annotations

import importlib.util
import sqlite3
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "roles/prosody/files/lib/prosody-checkpoint"
ROWS = 300


@pytest.fixture(scope="module")
def program():
    loader = SourceFileLoader("prosody_checkpoint", str(PROGRAM))
    spec = importlib.util.spec_from_loader("prosody_checkpoint", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def writer(tmp_path):
    """Who writes to a database, and never brings in its log."""
    connection = sqlite3.connect(tmp_path / "prosody.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("CREATE TABLE message (body TEXT)")
    yield connection
    connection.close()


def write(connection: sqlite3.Connection, rows: int = ROWS) -> None:
    for _ in range(rows):
        connection.execute("INSERT INTO message VALUES ('hello')")


def test_what_is_written_waits(program, writer, tmp_path):
    write(writer)
    assert program.waiting(tmp_path / "prosody.sqlite") >= ROWS


def test_a_checkpoint_leaves_nothing_waiting_and_the_log_begins_anew(program, writer, tmp_path):
    database = tmp_path / "prosody.sqlite"
    log = tmp_path / "prosody.sqlite-wal"
    write(writer)
    program.checkpoint(database)
    assert program.waiting(database) == 0
    size = log.stat().st_size
    write(writer, ROWS // 2)
    assert log.stat().st_size == size


def test_a_checkpoint_does_not_wait_for_who_writes(program, writer, tmp_path):
    database = tmp_path / "prosody.sqlite"
    write(writer)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO message VALUES ('not yet')")
    program.checkpoint(database)
    writer.execute("COMMIT")
    assert writer.execute("SELECT count(*) FROM message").fetchone() == (ROWS + 1,)


def test_nothing_waits_where_there_is_no_log(program, tmp_path):
    assert program.waiting(tmp_path / "prosody.sqlite") == 0
    (tmp_path / "prosody.sqlite-shm").write_bytes(b"short")
    assert program.waiting(tmp_path / "prosody.sqlite") == 0


def test_a_database_that_is_not_there_is_not_made(program, tmp_path):
    with pytest.raises(sqlite3.OperationalError):
        program.checkpoint(tmp_path / "prosody.sqlite")
    assert not (tmp_path / "prosody.sqlite").exists()
