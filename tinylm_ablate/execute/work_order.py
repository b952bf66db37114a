"""Work order of a command for its workers: the settled runs and settings of the walk, as one file of plain data."""

from __future__ import annotations

import dataclasses
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.secrets import cut
from tinylm_ablate.settled import Settled


@dataclass(frozen=True)
class Order:
    """A work order.

    Attributes:
        cells: Names and runs.
        train: Whether runs are trained; otherwise only finished ones are measured.
        retries: Times to retry a failed task.
        stop: Whether the first failure ends the command.
        lease_seconds: Lease time.
        threads: CPU threads per worker; None uses the setting of each run.
        workers: Number of workers.
        command: The command line, for provenance.
        failures: Marks of earlier failures, by key of the task.
        session: Id of the command, shared by its workers.
    """

    cells: Sequence[tuple[str, Settled]]
    train: bool
    retries: int
    stop: bool
    lease_seconds: float
    threads: int | None = None
    workers: int = 1
    command: Sequence[str] = ()
    failures: dict[str, int] = field(default_factory=dict)
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def runs_dir(self) -> Path:
        """Folder of the runs."""
        return Path(self.cells[0][1].config.runs_dir)

    def write(self) -> Path:
        """Write the order for workers; returns the file. Paths are made absolute, since a worker may start elsewhere.

        Workers need the secrets in the config, so a file with secrets is only readable by its owner.
        """
        about = {name.name: getattr(self, name.name) for name in dataclasses.fields(self) if name.name != "cells"}
        head = json.dumps(about)[:-1]
        cells = ", ".join(f'{{"name": {json.dumps(name)}, "run": {run.to_json()}}}' for name, run in self.cells)
        path = (self.runs_dir / "orders" / f"{self.session}.json").resolve()
        text = f'{head}, "folder": {json.dumps(os.getcwd())}, "cells": [{cells}]}}'
        write_atomic(path, text, private=cut(text) != text)
        return path

    @staticmethod
    def read(path: Path) -> Order:
        """Read an order, and change to the folder where the command was started, for relative paths.

        Raises:
            UserError: The file is damaged or missing, because the command has ended.
        """
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            os.chdir(Path(content.pop("folder")))
            cells = [(cell["name"], Settled.from_json(json.dumps(cell["run"]))) for cell in content.pop("cells")]
            return Order(cells=cells, **content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: no order for a worker ({error}); the command that wrote it has ended") from None
