"""Number of concurrent runs of a grid on this machine, and threads of each.

A small model does not use many threads efficiently: two concurrent runs with one thread each are faster than the same runs one
after another with two threads. The best division of the cores is measured on the model of a run in the middle of the grid.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tinylm_ablate import progress
from tinylm_ablate.arch.costs import training_memory
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.execute.words import say
from tinylm_ablate.execute.worker import LEADER, main, preload
from tinylm_ablate.hardware import cores, gpus, memory, pick_device

if TYPE_CHECKING:
    from tinylm_ablate.config import TrackingConfig
    from tinylm_ablate.settled import Settled

#: Environment variable with the GPUs that a process may use.
_GPUS = "CUDA_VISIBLE_DEVICES"

#: Maximum share of memory for all runs together, and memory of the libraries per process, bytes.
_MEMORY_SHARE, _LIBRARIES = 0.7, 10**9


def divide(runs: Sequence[Settled], workers: int | str) -> tuple[int, int | None]:
    """Return the number of concurrent runs, and the threads of each.

    Args:
        runs: The runs to train.
        workers: ``grid.workers``; "auto" is one per GPU, or on a CPU the result of a short measurement, limited by memory. A
            run with several devices or its own number of threads uses the whole machine.

    Returns:
        The number of workers; and the threads of each, or None if ``train.threads`` is set.
    """
    own = [run.config.train for run in runs]
    if workers == "auto":
        if any(pick_device(train.device) == "cuda" for train in own) and all(train.devices == 1 for train in own):
            return max(1, min(gpus(), len(runs))), None
        if any(train.devices > 1 or pick_device(train.device) != "cpu" or train.threads != "auto" for train in own):
            return 1, None
        threads = _best_threads(sorted(runs, key=lambda run: flops_per_token(run.shape, 1)["training"])[len(runs) // 2])
        most = max(1, min(cores() // threads, int(_MEMORY_SHARE * memory() // max(map(_bytes, runs)))))
    else:
        most = int(workers)
    # With fewer runs than workers, each has more threads.
    at_once = max(1, min(most, len(runs)))
    if at_once == 1 or any(train.threads != "auto" for train in own):
        return at_once, None
    return at_once, max(1, cores() // at_once)


def _bytes(run: Settled) -> int:
    train = run.config.train
    return _LIBRARIES + training_memory(run.shape, run.micro_batch, train.context_length, run.precision, train.recompute)


def _best_threads(run: Settled) -> int:
    """Return the number of threads per run with which the machine trains the most tokens per second."""
    from tinylm_ablate.execute.timing import speed

    train, optimizer = run.config.train, run.config.optimizer
    length, precision = train.context_length, run.precision
    options = [threads for threads in range(1, cores() + 1) if cores() % threads == 0]
    rates = {
        t: (cores() // t) / speed(run.shape, length, run.micro_batch, precision, t, optimizer, "cpu").training for t in options
    }
    return max(options, key=rates.__getitem__)


class LocalWorkers:
    """Other workers on this machine, started by this process; as a context manager, it waits for them.

    They end with the command, or with a checkpoint if it ends early or this process dies. If the machine has several GPUs,
    each worker gets one, and this process the first.

    Args:
        count: Number of workers.
        order: File of the work order.
        tracking: What they keep up to date.
    """

    def __init__(self, count: int, order: Path, tracking: TrackingConfig) -> None:
        self.count, self.order, self.tracking = count, order, tracking
        self._workers: dict[Path, subprocess.Popen[bytes] | BaseProcess] = {}
        self._watches: list[threading.Thread] = []
        self._stopped = False

    def __enter__(self) -> Self:
        cards = gpus() if _GPUS not in os.environ else 0
        forks = self.count > 0 and _fork_is_safe()
        if forks:  # once for all, and this process needs it too
            preload(self.tracking)
            forks = threading.active_count() == 1
        for number in range(1, self.count + 1):
            log = self.order.with_suffix(f".worker{number}.log")
            added = {LEADER: str(os.getpid())} | ({_GPUS: str(number % cards)} if cards > 1 else {})
            self._workers[log] = _fork(self.order, log, added) if forks else _interpreter(self.order, log, added)
        # A fork has none of its parent's threads, so they start when all forks are there.
        for log, worker in self._workers.items():
            self._watches.append(threading.Thread(target=self._watch, args=(worker, log), daemon=True))
            self._watches[-1].start()
        if cards > 1:
            os.environ[_GPUS] = "0"
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.stop()
        for watch in self._watches:
            watch.join()

    def stop(self) -> None:
        """Stop the others, which save their state first."""
        self._stopped = True
        for worker in self._workers.values():
            worker.terminate()

    def _watch(self, worker: subprocess.Popen[bytes] | BaseProcess, log: Path) -> None:
        if isinstance(worker, subprocess.Popen):
            code: int | None = worker.wait()
        else:
            worker.join()
            code = worker.exitcode
        if code == 0 or self._stopped:
            log.unlink(missing_ok=True)
        else:
            say(f"a worker ended with exit code {code}; the others continue ({log})")


def _fork_is_safe() -> bool:
    """Return whether workers can be forks of this process: torch's threads have not started, which a fork would lack.

    Elsewhere each worker is an interpreter of its own, whose imports take some seconds.
    """
    progress.end_thread()
    if sys.platform != "linux" or gpus() or threading.active_count() > 1:
        return False
    return "torch" not in sys.modules or len(os.listdir("/proc/self/task")) == 1


def _fork(order: Path, log: Path, environment: Mapping[str, str]) -> BaseProcess:
    worker = multiprocessing.get_context("fork").Process(target=_forked, args=(order, log, environment))
    sys.stdout.flush()
    sys.stderr.flush()
    worker.start()
    return worker


def _forked(order: Path, log: Path, environment: Mapping[str, str]) -> None:
    """A worker in a fork of its leader."""
    os.setsid()  # as for an interpreter of its own
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    main(order)


def _interpreter(order: Path, log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        # In a separate session: Ctrl-C in the terminal reaches only this process, which stops the others.
        return subprocess.Popen(
            [sys.executable, "-m", "tinylm_ablate.execute.worker", str(order)], stdin=subprocess.DEVNULL, stdout=file,
            stderr=file, env=os.environ | environment, start_new_session=True,
        )  # fmt: skip
