"""How many runs of a grid go at once on this machine, and with how many threads each.

A small model keeps few threads busy: two runs of one thread each are done sooner than the same two with both threads, one after
another. Which division of the cores trains most tokens a second is measured, on the model of a run in the middle of the grid.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.grid.outcome import say
from tinylm_ablate.hardware import cores, pick_device

if TYPE_CHECKING:
    from tinylm_ablate.settle import Settled

#: Tells a worker which process started it.
_LEADER = "TINYLM_ABLATE_LEADER"
_LOOK_SECONDS = 1.0


def divide(runs: Sequence[Settled], workers: int | str) -> tuple[int, int | None]:
    """Runs at once, and threads of each.

    Args:
        runs: What is to be trained.
        workers: ``grid.workers``; "auto" measures for a second or two. A GPU, or a run that has several devices or a number of
            threads of its own, is left one at a time by "auto".

    Returns:
        The number of runs at once; and the threads, or None where ``train.threads`` says them.
    """
    own = [run.config.train for run in runs]
    if workers == "auto":
        if any(train.devices > 1 or pick_device(train.device) != "cpu" or train.threads != "auto" for train in own):
            return 1, None
        threads = _best_threads(sorted(runs, key=lambda run: flops_per_token(run.shape, 1)["training"])[len(runs) // 2])
        most = max(1, cores() // threads)
    else:
        most = int(workers)
    # Fewer runs than places: each has more threads.
    at_once = max(1, min(most, len(runs)))
    if at_once == 1 or any(train.threads != "auto" for train in own):
        return at_once, None
    return at_once, max(1, cores() // at_once)


def _best_threads(run: Settled) -> int:
    """The number of threads with which the machine as a whole trains most tokens a second."""
    from tinylm_ablate.grid.calibrate import speed

    train, optimizer = run.config.train, run.config.optimizer
    length, precision = train.context_length, run.precision
    options = [threads for threads in range(1, cores() + 1) if cores() % threads == 0]
    rates = {t: (cores() // t) / speed(run.shape, length, run.micro_batch, precision, t, optimizer).training for t in options}
    return max(options, key=rates.__getitem__)


@contextlib.contextmanager
def team(count: int, threads: int | None, logs: Path) -> Iterator[None]:
    """Other workers of the grid within the block: the command that was typed, started again so often.

    They end with the grid; or with a checkpoint when the block is left early, or when this process is gone.

    Args:
        count: How many.
        threads: Threads of their runs, or None where the command says them.
        logs: The folder of what they print, ``worker1.log`` and so on.
    """
    typed = [text for text in sys.argv[1:] if not text.startswith("grid.workers=")]
    command = [sys.executable, "-m", "tinylm_ablate", *typed, "grid.workers=1", "progress=off"]
    command += [f"train.threads={threads}"] if threads else []
    logs.mkdir(parents=True, exist_ok=True)
    helpers: dict[Path, subprocess.Popen[bytes]] = {}
    try:
        for number in range(1, count + 1):
            log = logs / f"worker{number}.log"
            with log.open("wb") as file:
                helpers[log] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=os.environ | {_LEADER: str(os.getpid())}
                )
        yield
    except BaseException:
        for helper in helpers.values():
            helper.terminate()
        raise
    finally:
        for log, helper in helpers.items():
            if helper.wait() not in {0, 1}:  # 1 is that of a grid with a failed cell, which is told in its place
                say(f"a worker ended with exit code {helper.returncode}: {log}")


def follow() -> None:
    """End this process with SIGTERM when the worker that started it is gone, if one did."""
    leader = os.environ.pop(_LEADER, None)
    if leader is None:
        return

    def watch() -> None:
        while os.getppid() == int(leader):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
