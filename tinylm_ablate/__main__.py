"""The command line: ``python -m tinylm_ablate [-m] [key=value …]``, also installed as ``tinylm-ablate``."""

from __future__ import annotations

import os
import re
import sys


def main() -> None:
    """Run what the command line says.

    Exits with 0 when all went well, 2 for a mistake of the user's (a message without a traceback), 1 when a run failed and
    128 + n after signal n.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        from tinylm_ablate.help import help_text

        print(help_text())
        return
    # argparse takes positional overrides in one piece only, so that a -m between them would be refused.
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in {"-m", "--multirun"})
    sys.argv[1:] = [literal_prompt(argument) for argument in sys.argv[1:]]
    # Threads that wait for the others sleep. Where something else wants a core, as in most grids, threads that spin while
    # they wait make a step up to ten times slower (docs/LAB.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    tracebacks = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole, and we say them in our own way

    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import DictConfig

    from tinylm_ablate.errors import ConfigError, Interrupted, RunFailed, UserError
    from tinylm_ablate.grid import compose
    from tinylm_ablate.paths import conf_dir

    compose.register()

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
        overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        grid = bool({"-m", "--multirun"} & set(sys.argv[1:]))
        _fail(str(ConfigError(compose.diagnose(overrides, grid) or [str(error).strip().splitlines()[0]])), 2)
    except BrokenPipeError:  # whoever read our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _fail("stopped; the same command resumes from the last checkpoint", 130)
    except Interrupted as stop:
        _fail(str(stop), 128 + stop.signum)
    except RunFailed as error:
        if tracebacks:
            raise
        _fail(str(error), 1)


def literal_prompt(argument: str) -> str:
    """``prompt=`` takes any text as it stands, where Hydra's grammar wants quotes around most of it."""
    key, equals, text = argument.partition("=")
    if key != "prompt" or not equals or (len(text) > 1 and text[0] == text[-1] and text[0] in "'\""):
        return argument
    # Backslashes are taken as they are, except before what they escape: a quote, and the start of an interpolation.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r"(\\+)$", r"\1\1", re.sub(r"(\\*)'", r"\1\1\\'", text))
    return f"prompt='{text}'"


def _fail(message: str, code: int) -> None:
    from tinylm_ablate.secrets import cut

    print(cut(message), file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
