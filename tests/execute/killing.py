"""Workers on one grid that are killed at random: ``python -m tests.grid.workers SPEC``, where SPEC is a JSON object.

Everything is imported once, and each worker is a fork of that, so that a worker starts at once. What became of them is printed
as a JSON object.
"""

from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from typing import Any


def worker(name: str, arguments: list[str], apart: bool) -> int:
    """Start a worker: the command line in a process of its own, with its output in ``<name>.log``; returns the process."""
    process = os.fork()
    if process:
        return process
    code = 3
    try:
        log = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if apart:  # as on machines of their own that share a folder without locks
            from tinylm_ablate.grid import claims

            claims.machine = lambda: f"{name}/of its own"  # type: ignore[assignment]
            fcntl.flock = _no_locks  # type: ignore[assignment]
        from tinylm_ablate.__main__ import main

        sys.argv = ["tinylm_ablate", *arguments]
        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


_flock = fcntl.flock


def _no_locks(handle: int, operation: int) -> None:
    """The folders of the runs have no locks; the cache, which is each machine's own, has them."""
    if os.readlink(f"/proc/self/fd/{handle}").endswith("/run.lock"):
        raise OSError(errno.ENOLCK, "no locks here")
    _flock(handle, operation)


def preload() -> None:
    """Import what a worker imports."""
    for name in ("hydra.main", "lightning.pytorch", "pandas", "tinylm_ablate.grid.sweeper", "tinylm_ablate.train.fit"):
        importlib.import_module(name)


def main(spec: dict[str, Any]) -> None:
    """An undisturbed grid in ``whole``, then the same with workers that are killed and started again in ``runs``."""
    preload()
    draw = random.Random(spec["seed"])
    undisturbed = worker("undisturbed", [*spec["arguments"], "runs_dir=whole"], False)
    codes = {"undisturbed": os.waitstatus_to_exitcode(os.waitpid(undisturbed, 0)[1])}
    arguments = [*spec["arguments"], "runs_dir=runs"]
    alive: dict[int, str] = {}

    def start(place: int, life: int) -> None:
        alive[worker(f"worker-{place}-{life}", arguments, spec["apart"])] = f"worker-{place}-{life}"

    for place in range(spec["workers"]):
        start(place, 0)
    for life in range(1, spec["kills"] + 1):
        time.sleep(draw.uniform(*spec["pause"]))
        victim = draw.choice(sorted(alive))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        place = int(alive.pop(victim).split("-")[1])
        start(place, life)
    for process, name in alive.items():
        codes[name] = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print(json.dumps(codes))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
