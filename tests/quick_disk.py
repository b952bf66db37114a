"""Importing it makes writes quick: what tests write need not survive a power failure, so nothing waits for the disk.

Kills of processes, which tests are about, lose nothing that was written.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from sqlalchemy import Engine, event


def _do_not_wait(handle: Any) -> None:
    del handle


os.fsync = _do_not_wait


@event.listens_for(Engine, "connect")
def _without_waiting(connection: Any, record: Any) -> None:
    """Let SQLite, which MLflow and Optuna use, not wait either."""
    del record
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")
