"""What is still to be told to the tracking store about one run, in order, and the file that keeps it meanwhile.

An operation is a JSON object with a key "do":

- ``open``: create the run, or go on with it: name, parent, tags, note
- ``parameters``: dotted keys to values: values
- ``metrics``: values at a number of tokens: tokens, values
- ``text``: an artifact that is written out: name, content
- ``artifact``: an artifact that is a file: path
- ``tag``: key, value
- ``close``: status

Each has its "time", milliseconds since 1970, taken when it was asked for: sending one twice changes nothing in the store.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinylm_ablate.files import write_atomic

Operation = dict[str, Any]

#: An id that the store has not given out: that of a run which it has not heard of yet.
UNSENT = "unsent-"

#: A file that its process left open belongs to nobody once it is older than this. Living processes rewrite theirs sooner.
ABANDONED_SECONDS = 900.0


class Outbox:
    """The queue of one run.

    Attributes:
        file: Where it is kept when the store cannot be reached.
        key: Name of the run that is ours, known before the store is reached; it makes the creation repeatable.
        run_id: The store's id of the run, once there is one.
        ended: Whether nothing will be added: the file may then be sent by whoever finds it.
    """

    def __init__(self, file: Path, key: str | None = None, run_id: str | None = None) -> None:
        self.file = file
        self.key = key or f"{UNSENT}{uuid.uuid4().hex[:16]}"
        self.run_id = run_id
        self.ended = False
        self.sending = threading.Lock()
        self._operations: deque[Operation] = deque()
        self._kept = False

    @classmethod
    def read(cls, file: Path) -> Outbox:
        """An outbox that an earlier process left.

        Raises:
            ValueError: The file is none of ours, or broken.
        """
        lines = file.read_text().splitlines()
        try:
            header, *operations = [json.loads(line) for line in lines]
            outbox = cls(file, header["key"], header["run_id"])
            outbox.ended = bool(header["ended"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: not a list of pending tracking operations") from error
        outbox._operations.extend(operations)
        outbox._kept = True
        return outbox

    @staticmethod
    def abandoned(file: Path) -> bool:
        """Whether the process that wrote ``file`` is done with it, or has long been silent."""
        with file.open() as stream:
            header = json.loads(stream.readline())
        return bool(header["ended"]) or time.time() - file.stat().st_mtime > ABANDONED_SECONDS

    def __len__(self) -> int:
        return len(self._operations)

    @property
    def id(self) -> str:
        """The store's id, or ours as long as there is none."""
        return self.run_id or self.key

    def add(self, do: str, **fields: Any) -> None:
        """Append an operation."""
        self._operations.append({"do": do, "time": round(time.time() * 1000), **fields})

    def next(self, most_values: int) -> Sequence[Operation]:
        """The operations that are sent next in one call: one, or a row of ``metrics`` with at most ``most_values`` values."""
        waiting = self._operations.copy()  # in one step: another thread may append meanwhile
        taken = [waiting.popleft()] if waiting else []
        if taken and taken[0]["do"] == "metrics":
            values = len(taken[0]["values"])
            for operation in waiting:
                if operation["do"] != "metrics" or values + len(operation["values"]) > most_values:
                    break
                values += len(operation["values"])
                taken.append(operation)
        return taken

    def drop(self, count: int) -> None:
        """Forget the first ``count`` operations: they have arrived."""
        for _ in range(count):
            self._operations.popleft()

    def keep(self) -> None:
        """Write what is left to the file; with nothing left, remove the file."""
        if self._operations:
            header = {"key": self.key, "run_id": self.run_id, "ended": self.ended}
            lines = [json.dumps(item) for item in (header, *self._operations.copy())]
            write_atomic(self.file, "\n".join(lines) + "\n")
            self._kept = True
        elif self._kept:
            self.file.unlink(missing_ok=True)
            self._kept = False
