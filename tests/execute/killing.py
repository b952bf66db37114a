"""Workers that are killed. Each is a fork of a process that has imported everything, for a fast start."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def start(
    name: str, arguments: list[str], apart: bool = False, die_in: str | None = None, prepare: Callable[[], object] | None = None
) -> int:
    """Start a command in a separate process, with its output in ``<name>.log``; return the process.

    Args:
        name: Name of the worker.
        arguments: The words of the command line.
        apart: Whether to act like another machine that shares a folder without locks.
        die_in: Kind of task during which the process kills itself.
        prepare: Called first in the new process.
    """
    process = os.fork()
    if process:
        return process
    code = 3
    try:
        log = os.open(f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if prepare is not None:
            prepare()
        if apart:
            from tinylm_ablate import leases

            leases.machine = lambda: f"{name}/of its own"  # type: ignore[assignment]
            fcntl.flock = _no_locks  # type: ignore[assignment]
        if die_in is not None:
            _signal_in(die_in, {_RENAMES.get(die_in, 1): signal.SIGKILL})
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
    """Disable locks in the folder of the leases, but not in the cache, which each machine has for itself."""
    if "/claims/" in os.readlink(f"/proc/self/fd/{handle}"):
        raise OSError(errno.ENOLCK, "no locks here")
    _flock(handle, operation)


#: The rename instead of which a process dies, by kind of task: a run while it completes its second checkpoint, the pass over
#: losses and a measure at their end, everything else before its first file or folder is complete.
_RENAMES = {"run": 6, "losses": 2, "measure": 2}


def _signal_in(kind: str, signals: dict[int, signal.Signals]) -> None:
    """Send this process signals during its first task of this kind: each instead of the n-th rename that would complete a file
    or folder."""
    from tinylm_ablate.execute.walk import Walk

    do = Walk._do

    def deadly(self: Any, states: Any) -> bool:
        if states[0].task.kind == kind:
            Walk._do = do  # type: ignore[method-assign]
            _signal_at_renames(signals)
        return do(self, states)

    Walk._do = deadly  # type: ignore[method-assign]


def _signal_at_renames(signals: dict[int, signal.Signals]) -> None:
    done = [0]

    def instead(original: Any) -> Any:
        def rename(source: Any, target: Any, **more: Any) -> None:
            done[0] += 1
            if done[0] in signals:
                os.kill(os.getpid(), signals[done[0]])
            original(source, target, **more)

        return rename

    os.rename, os.replace = instead(os.rename), instead(os.replace)


def wait(process: int) -> int:
    """Return the exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def undisturbed(spec: dict[str, Any]) -> dict[str, int]:
    """Run a grid in ``whole``."""
    return {"undisturbed": wait(start("undisturbed", [*spec["arguments"], "runs_dir=whole"]))}


def at_random(spec: dict[str, Any]) -> dict[str, int]:
    """Run a grid in ``runs`` with workers that are killed and restarted.

    The lists in ``spec["in_turn"]`` are added to the arguments of consecutive starts.
    """
    draw, in_turn = random.Random(spec["seed"]), spec["in_turn"]
    alive: dict[int, str] = {}

    def begin(place: int, life: int) -> None:
        arguments = [*spec["arguments"], *in_turn[(place + life + 1) % len(in_turn)], "runs_dir=runs"]
        alive[start(f"worker-{place}-{life}", arguments, spec["apart"])] = f"worker-{place}-{life}"

    for place in range(spec["workers"]):
        begin(place, 0)
    for life in range(1, spec["kills"] + 1):
        time.sleep(draw.uniform(*spec["pause"]))
        victim = draw.choice(sorted(alive))
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)
        place = int(alive.pop(victim).split("-")[1])
        begin(place, life)
    return {name: wait(process) for process, name in alive.items()}


def in_each_kind(spec: dict[str, Any]) -> dict[str, int]:
    """Run an undisturbed grid in ``whole``, and one in ``runs`` whose workers each die in a task of one kind."""
    codes = {"undisturbed": wait(start("undisturbed", [*spec["arguments"], *spec["places"][0]]))}
    arguments = [*spec["arguments"], *spec["places"][1]]
    for kind in spec["kinds"]:
        codes[kind] = wait(start(f"worker-{kind}", arguments, die_in=kind))
    return codes | {"last": wait(start("worker-last", arguments))}


def suspended(spec: dict[str, Any]) -> dict[str, int]:
    """Suspend a worker instead of a rename of its first run, and continue it once another worker has ``reached`` a file.

    It is killed if it reaches a later rename. Both act like different machines.
    """
    arguments = [*spec["arguments"], "runs_dir=runs"]
    signals = {spec["rename"]: signal.SIGSTOP} | ({spec["killed_at"]: signal.SIGKILL} if spec["killed_at"] else {})
    first = start("first", arguments, apart=True, prepare=lambda: _signal_in("run", signals))
    os.waitpid(first, os.WUNTRACED)
    second = start("second", arguments, apart=True)
    _until(spec["reached"])
    os.kill(first, signal.SIGCONT)
    return {"second": wait(second), "first": wait(first)}


def _until(pattern: str) -> None:
    """Wait for a file that matches a pattern."""
    while not glob.glob(pattern):
        time.sleep(0.001)


def together(spec: dict[str, Any]) -> dict[str, int]:
    """Start several processes of one command at once."""
    processes = {name: start(name, spec["arguments"]) for name in spec["names"]}
    return {name: wait(process) for name, process in processes.items()}


_WHAT = {
    "undisturbed": undisturbed, "at_random": at_random, "in_each_kind": in_each_kind, "suspended": suspended,
    "together": together,
}  # fmt: skip


def main(folder: Path, spec: dict[str, Any]) -> None:
    """Do what ``spec["what"]`` says in a folder, and write the exit codes to ``codes.json`` there."""
    os.chdir(folder)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    Path("codes.json").write_text(json.dumps(_WHAT[spec["what"]](spec)))
