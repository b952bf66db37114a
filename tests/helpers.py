"""Settings and functions for several tests."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from tinylm_ablate.config import Config
from tinylm_ablate.execute.perform import perform, results
from tinylm_ablate.settle import settle
from tinylm_ablate.tasks.run import Record

Result = TypeVar("Result")

#: The smallest complete run: one second of training.
TINY = [
    "arch.depth=2",
    "arch.width=16",
    "arch.ffn_width=24",
    "tokenizer=bpe",
    "tokenizer.vocab_size=300",
    "tokenizer.train_bytes=20000",
    "train.context_length=32",
    "train.batch_tokens=128",
    "train.tokens=512",
    "train.device=cpu",
    "train.threads=1",
    "train.compile=false",
    "evaluate.max_bytes=2000",
    "evaluate.cloze_questions=4",
    "tracking=none",
]


def last_of_each(arguments: Iterable[str]) -> list[str]:
    """Return one argument per key: an axis replaces the value in ``TINY``, as giving both is a mistake."""
    return list({argument.partition("=")[0]: argument for argument in arguments}.values())


def run(config: Config) -> Record:
    """Train and measure the run of a config and its needs, as far as they are not done.

    Returns:
        Its record, with the metrics that the config requests.
    """
    assert Path(config.runs_dir).is_absolute(), "a test must not use the runs of the checkout"
    settled = settle(config)
    walk = perform([("the run", settled)], config, quiet=True)
    for state in walk.failed():
        assert state.exception is not None
        raise state.exception
    record = results(settled)
    assert record is not None
    return record


class Ended(NamedTuple):
    """Result of a command: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both outputs."""
        return self.out + self.err


def run_command(*arguments: str, folder: Path | None = None) -> Ended:
    """Run ``tinylm-ablate ARGUMENTS`` in this process, by the ``main`` that a separate process would call.

    The working folder, ``sys.argv``, the environment, torch's thread count and Hydra's global state are restored afterwards.

    Args:
        arguments: The words of the command line.
        folder: The working folder of the command; the current one by default.

    Raises:
        Exception: Any defect, for which ``main`` has no exit code.
    """
    import torch
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.singleton import Singleton

    from tinylm_ablate.__main__ import main

    place, words, environment, threads = Path.cwd(), sys.argv, dict(os.environ), torch.get_num_threads()
    hydra = Singleton.get_state()
    out, err, code = io.StringIO(), io.StringIO(), 0
    GlobalHydra.instance().clear()
    sys.argv = ["tinylm_ablate", *arguments]
    try:
        os.chdir(folder or place)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        os.chdir(place)
        sys.argv = words
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)
        GlobalHydra.instance().clear()
        Singleton.set_state(hydra)
    return Ended(code, out.getvalue(), err.getvalue())


#: Starts forks of a process that has imported everything: they start at once, and share nothing with this process.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.preloaded"])


def in_fork(function: Callable[..., Result], *arguments: Any, **environment: str) -> Result:
    """Return the result of a function in a new process, which starts at once, with additional environment variables."""
    with ProcessPoolExecutor(1, mp_context=FORKS, initializer=_set_environment, initargs=(environment,)) as pool:
        return pool.submit(function, *arguments).result()


def _set_environment(variables: dict[str, str]) -> None:
    os.environ.update(variables)


class Command:
    """``tinylm-ablate ARGUMENTS`` in a separate process that can be killed, stopped, limited, or run concurrently.

    It starts at once, while a new interpreter would import for five seconds. As a context manager, it kills the process at the
    end if it is still running.

    Args:
        arguments: The words of the command line.
        folder: The working folder.
        prepare: Called first in the new process, for example to limit it; must be picklable.
        environment: Additional environment variables.
    """

    def __init__(
        self,
        *arguments: str,
        folder: Path,
        prepare: Callable[[], None] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._output = tempfile.TemporaryDirectory()
        where = dict(os.environ) | {"OMP_NUM_THREADS": "1"} | (environment or {})
        self.process = FORKS.Process(target=_command, args=(arguments, folder, prepare, where, self._output.name))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.process.kill()
        self.process.join()
        self._output.cleanup()

    def kill(self) -> None:
        """Kill the process at once."""
        self.process.kill()

    def running(self) -> bool:
        """Return whether it has not ended yet."""
        return self.process.is_alive()

    def output(self) -> str:
        """Return its standard output so far."""
        path = Path(self._output.name) / "out"
        return path.read_text() if path.exists() else ""

    def wait(self, seconds: float = 500) -> Ended:
        """Wait for its end and return the exit code, or minus the signal that killed it."""
        self.process.join(seconds)
        code = self.process.exitcode
        out, err = ((Path(self._output.name) / name).read_text() for name in ("out", "err"))
        assert code is not None, f"still running after {seconds} s: {out}{err}"
        return Ended(code, out, err)


def _command(
    arguments: tuple[str, ...], folder: Path, prepare: Callable[[], None] | None, environment: dict[str, str], output: str
) -> None:
    for number, name in enumerate(("out", "err"), start=1):
        handle = os.open(f"{output}/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["tinylm_ablate", *arguments]
    if prepare is not None:
        prepare()
    from tinylm_ablate.__main__ import main

    main()
