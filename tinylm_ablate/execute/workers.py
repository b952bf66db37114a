"""How many runs of a grid go at once on this machine, and with how many threads each.

A small model keeps few threads busy: two runs of one thread each are done sooner than the same two with both threads, one after
another. Which division of the cores trains most tokens a second is measured, on the model of a run in the middle of the grid.
"""

from __future__ import annotations

import functools
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tinylm_ablate.arch.costs import training_memory
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.execute.attempts import say
from tinylm_ablate.hardware import cores, memory, pick_device
from tinylm_ablate.provenance import LEADER

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled

_LOOK_SECONDS = 1.0

#: What runs may take of the memory together, and what the libraries take of it in each process, bytes.
_MEMORY_SHARE, _LIBRARIES = 0.7, 10**9


def wanted_workers(workers: int | str, launcher: str) -> int | str:
    """``grid.workers`` beside ``hydra/launcher``; another launcher than Hydra's own has workers of its own.

    Raises:
        ConfigError: Both were asked for.
    """
    if launcher == "basic":
        return workers
    if workers not in (1, "auto"):
        told = f"grid.workers={workers}: allowed with hydra/launcher={launcher}: 1, since it has workers of its own"
        raise ConfigError([told])
    return 1


def divide(runs: Sequence[Settled], workers: int | str) -> tuple[int, int | None]:
    """Runs at once, and threads of each.

    Args:
        runs: What is to be trained.
        workers: ``grid.workers``; "auto" measures for some seconds, and looks at the memory. A GPU, or a run that has several
            devices or a number of threads of its own, is left one at a time by "auto".

    Returns:
        The number of runs at once; and the threads, or None where ``train.threads`` says them.
    """
    own = [run.config.train for run in runs]
    if workers == "auto":
        if any(train.devices > 1 or pick_device(train.device) != "cpu" or train.threads != "auto" for train in own):
            return 1, None
        threads = _best_threads(sorted(runs, key=lambda run: flops_per_token(run.shape, 1)["training"])[len(runs) // 2])
        most = max(1, min(cores() // threads, int(_MEMORY_SHARE * memory() // max(map(_bytes, runs)))))
    else:
        most = int(workers)
    # Fewer runs than places: each has more threads.
    at_once = max(1, min(most, len(runs)))
    if at_once == 1 or any(train.threads != "auto" for train in own):
        return at_once, None
    return at_once, max(1, cores() // at_once)


def _bytes(run: Settled) -> int:
    train = run.config.train
    return _LIBRARIES + training_memory(run.shape, run.micro_batch, train.context_length, run.precision, train.recompute)


def _best_threads(run: Settled) -> int:
    """The number of threads with which the machine as a whole trains most tokens a second."""
    from tinylm_ablate.execute.calibrate import speed

    train, optimizer = run.config.train, run.config.optimizer
    length, precision = train.context_length, run.precision
    options = [threads for threads in range(1, cores() + 1) if cores() % threads == 0]
    rates = {
        t: (cores() // t) / speed(run.shape, length, run.micro_batch, precision, t, optimizer, "cpu").training for t in options
    }
    return max(options, key=rates.__getitem__)


class Team:
    """Other workers of a grid, started by this one: the command that was typed, once more each.

    They end with the grid; with a checkpoint when it ends early, or when this process is gone. As a context it waits for them.

    Args:
        count: How many.
        threads: Threads of their runs, or None where the command says them.
        since: The grid's start by the clock of its folder: failures from then on are this grid's.
        logs: The folder of what they print; the log of a worker that ended as it should is removed.
    """

    def __init__(self, count: int, threads: int | None, since: float, logs: Path) -> None:
        self.count, self.threads, self.since, self.logs = count, threads, since, logs
        self._helpers: dict[Path, subprocess.Popen[bytes]] = {}
        self._watches: list[threading.Thread] = []
        self._stopped = False

    def __enter__(self) -> Self:
        command = _again(["grid.workers=1", "progress=off", *([f"train.threads={self.threads}"] if self.threads else [])])
        environment = os.environ | {LEADER: f"{os.getpid()} {self.since!r}"}
        self.logs.mkdir(parents=True, exist_ok=True)
        for number in range(1, self.count + 1):
            log = self.logs / f"worker{number}.{platform.node()}.{os.getpid()}.log"
            with log.open("wb") as file:
                # In a session of its own: Ctrl-C in the terminal is for this process, which stops the others once.
                helper = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True
                )
            self._helpers[log] = helper
            self._watches.append(threading.Thread(target=self._watch, args=(helper, log), daemon=True))
            self._watches[-1].start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.stop()
        for watch in self._watches:
            watch.join()

    def stop(self) -> None:
        """Stop the others; each saves its state first."""
        self._stopped = True
        for helper in self._helpers.values():
            helper.terminate()

    def _watch(self, helper: subprocess.Popen[bytes], log: Path) -> None:
        if helper.wait() == 0 or self._stopped:
            log.unlink(missing_ok=True)
        else:
            say(f"a worker ended with exit code {helper.returncode}; the others go on ({log})")


def _again(more: Sequence[str]) -> list[str]:
    """The command that was typed, with more overrides behind its own: Hydra wants them in one piece."""
    typed = [text for text in sys.argv[1:] if not text.startswith("grid.workers=")]
    places = [place for place, text in enumerate(typed, 1) if "=" in text and not text.startswith("-")]
    place = places[-1] if places else len(typed)
    return [sys.executable, "-m", "tinylm_ablate", *typed[:place], *more, *typed[place:]]


@functools.cache
def leader_since() -> float | None:
    """When the grid was started whose leader has started this process, by the clock of its folder; None without a leader.

    From the first call on, this process ends with SIGTERM when its leader is gone.
    """
    leader = os.environ.pop(LEADER, None)
    if leader is None:
        return None
    pid, since = leader.split()

    def watch() -> None:
        while os.getppid() == int(pid):
            time.sleep(_LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    return float(since)
