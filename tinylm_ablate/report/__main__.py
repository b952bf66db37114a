"""``tinylm-ablate report``, or ``python -m tinylm_ablate.report``: writes pages on the runs to ``results/``.

The same runs give the same bytes: the output does not depend on the time, the machine, or the order of folders.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import read_yaml
from tinylm_ablate.paths import conf_dir
from tinylm_ablate.report import mlflow_store
from tinylm_ablate.report.site import Ahead, add_to_reference, write_report

_NOTHING = """no finished run in {runs_dir} yet. `make demo` trains a small grid; for your own, use for example
    python -m tinylm_ablate -m arch.depth=20,40 seeds=2"""


#: Default folder of the runs; it may not exist yet.
_RUNS_DIR = Path("runs")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    claims = options.claims or next((folder for folder in [Path("claims")] if folder.is_dir()), None)
    reference = options.results / "reference" if options.reference is None else options.reference
    problems: list[str] = []
    try:
        ahead = None if options.forecast is None else _ahead(*options.forecast)
        with tempfile.TemporaryDirectory() as folder:
            runs_dir = options.runs_dir
            if runs_dir != _RUNS_DIR and not _may_have_runs(runs_dir):  # the report would replace one that has runs
                raise UserError(f"{runs_dir}: no such folder of runs; nothing was written. --runs-dir names it")
            if options.mlflow is not None:
                runs_dir = Path(folder)
                mlflow_store.fetch(options.mlflow, options.experiment or _experiment_name(), runs_dir, problems)
            if options.add:
                kept = add_to_reference(runs_dir, reference, ahead)
                _report([*problems, *kept.records.problems])
                print(f"{reference / 'README.md'}: {len(kept.records.runs)} runs in {len(kept.pages)} tables")
                return 0
            mine, theirs = write_report(runs_dir, options.results, claims, reference, ahead)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    _report([*problems, *mine.records.problems, *theirs.records.problems])
    if mine.records.runs.empty:
        print(_NOTHING.format(runs_dir=options.runs_dir))
    for page in mine.pages:
        print(f"{options.results / page.stem}.md: {page.title} ({page.runs} runs)")
    if theirs.pages:
        print(f"{reference / 'README.md'}: the reference, {len(theirs.records.runs)} runs")
    print(f"{(options.results / 'index.html').absolute()}: everything in one page")
    return 0


def _may_have_runs(folder: Path) -> bool:
    """Return whether a folder is one of runs, also before the first is finished; an empty one may become one."""
    try:
        known = any((folder / name).is_dir() for name in ("grids", "search"))
        return known or not any(folder.iterdir()) or any(folder.glob("*/config.yaml"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # reported when it is read
        return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tinylm-ablate report", description="Write the pages of the runs.")
    parser.add_argument("--runs-dir", type=Path, default=_RUNS_DIR, help="folder of the runs (default: runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="where to write (default: results)")
    parser.add_argument("--reference", type=Path, help="folder of the reference (default: RESULTS/reference)")
    parser.add_argument("--add", action="store_true", help="add the runs to the reference, and write nothing else")
    parser.add_argument(
        "--forecast", nargs=3, metavar=("SCALE", "PARAMETERS", "TOKENS"),
        help="forecast results at a scale before it is run, such as s8 15.2e6 122e6; mode=plan prints both numbers",
    )  # fmt: skip
    parser.add_argument(
        "--claims", type=Path, help="folder of your own claims, one YAML file each (default: claims, if there is one here)"
    )
    parser.add_argument(
        "--mlflow", metavar="URI", help="read an MLflow store instead of a folder of runs: sqlite:///FILE or http://SERVER"
    )
    parser.add_argument("--experiment", help="its experiment (default: that of conf/tracking/mlflow.yaml)")
    return parser


def _ahead(scale: str, parameters: str, tokens: str) -> Ahead:
    """Return the setting to forecast."""
    numbers = []
    mistakes = []
    for name, text in (("PARAMETERS", parameters), ("TOKENS", tokens)):
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        numbers.append(number)
        if not 1 <= number < 1e18:
            mistakes.append(f"--forecast {name}={text}: allowed: a number from 1 to 1e18, such as 15.2e6")
    if mistakes:
        raise UserError("\n".join(mistakes))
    return scale, numbers[0], numbers[1]


def _experiment_name() -> str:
    """Return the default name of the MLflow experiment."""
    name: str = read_yaml(conf_dir() / "tracking" / "mlflow.yaml")["experiment"]
    return name


def _report(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
