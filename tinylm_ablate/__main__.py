"""The command line: ``python -m tinylm_ablate [-m] [key=value …]``, also installed as ``tinylm-ablate``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

#: Verbs that set ``mode``.
_MODES = ("run", "plan", "status", "evaluate", "generate", "export", "coverage", "sync")


def main() -> None:
    """Run the command line.

    Exits with 0 on success, 2 on a user's mistake (a message without a traceback), 1 if a run failed, and
    128 + n after signal n.
    """
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    try:
        _main(tracebacks)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        from tinylm_ablate.disk import in_words

        trouble = in_words(error, Path.cwd(), "the output of the command")
        if trouble is None or tracebacks:
            raise
        _fail(str(trouble), 2)


def _main(tracebacks: bool) -> None:
    if sys.flags.optimize:
        _fail("python -O disables checks that tinylm-ablate needs; start it without -O", 2)
    for stream in (sys.stdout, sys.stderr):  # unprintable characters must not end a command
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in ("report", "ui", "gc"):
        from tinylm_ablate import verbs

        _run_verb(getattr(verbs, verb))
    if {"-h", "--help"} & set(sys.argv[1:]):
        from tinylm_ablate.help import help_text

        print(help_text(verb))
        return
    if "--version" in sys.argv[1:]:
        from tinylm_ablate.version import __version__

        print(f"tinylm-ablate {__version__}")
        return
    if verb in _MODES:
        sys.argv[1:] = [*sys.argv[2:], f"mode={verb}"]
    # Waiting threads sleep. If other processes need the core, as in most grids, spinning threads make a step up to ten times
    # slower (docs/LAB.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises the original errors, which are reported below

    from tinylm_ablate.arguments import normalize
    from tinylm_ablate.completion import completes
    from tinylm_ablate.errors import ConfigError, Interrupted, RunFailed, UserError, first_line
    from tinylm_ablate.signals import ending_in_order, exit_code

    try:
        if completes(sys.argv[1:]):
            return
        typed = normalize(sys.argv[1:])
    except ConfigError as error:
        _fail(str(error), 2)
    sys.argv[1:] = [*typed.options, *typed.overrides]
    for note in typed.notes:
        print(note, file=sys.stderr)

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from tinylm_ablate.grid import compose, diagnosis
    from tinylm_ablate.paths import conf_dir

    compose.register()
    try:
        diagnosis.check_files(typed.overrides, typed.grid)
    except ConfigError as error:
        _fail(str(error), 2)

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def task(config: DictConfig) -> None:
        from tinylm_ablate.modes import perform

        try:
            perform(compose.typed(config))
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # a worker that a launcher has started
            failed.append(error)  # raised here, Hydra would print all overrides first

    failed: list[Exception] = []
    try:
        with ending_in_order():
            task()
        if failed:
            raise failed[0]
    except UserError as error:
        if tracebacks:
            raise
        _fail(str(error), 2)
    except compose.COMPOSITION_ERRORS as error:
        if tracebacks:
            raise
        _fail(str(ConfigError(diagnosis.diagnose(typed.overrides, typed.grid) or [first_line(error)])), 2)
    except KeyboardInterrupt as stop:
        _fail("stopped; the same command resumes from the last checkpoint", exit_code(stop))
    except Interrupted as stop:
        _fail(str(stop), 128 + stop.signum)
    except RunFailed as error:
        if tracebacks:
            raise
        _fail(str(error), 1)


def _run_verb(do: Callable[[Sequence[str]], int]) -> NoReturn:
    from tinylm_ablate.errors import UserError

    try:
        raise SystemExit(do(sys.argv[2:]))
    except UserError as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> NoReturn:
    from tinylm_ablate.secrets import cut

    print(cut(message), file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
