"""The text of ``--help``: what can be chosen, a line for each group. Kept free of heavy imports, so that it comes at once."""

from __future__ import annotations

from tinylm_ablate.config import GROUPS
from tinylm_ablate.paths import conf_dir, experiments_dir

_USAGE = """\
tinylm_ablate: composable, resumable, statistically honest ablations of tiny language models

usage:
  python -m tinylm_ablate [key=value ...]                 one run
  python -m tinylm_ablate -m key=a,b [key=value ...]      a grid: every combination of the values
  python -m tinylm_ablate -m +experiments=NAME            a table or figure of the paper
  python -m tinylm_ablate.report                          tables from the runs

mode=plan tells what a run or grid would cost, mode=status how far it is; of a finished model, mode=evaluate asks benchmarks,
mode=generate writes text and mode=export makes a Hugging Face folder. docs/config.md has every setting.

examples:
  python -m tinylm_ablate -m arch.depth=20,40 init=inherit
  python -m tinylm_ablate data=files data.path=my_texts scale=s16 train.tokens=5000000
"""


def help_text() -> str:
    """Usage, the config groups with their choices, the experiments, and where to read on."""
    lines = [_USAGE, "config groups (group=choice):"]
    for group, node in GROUPS.items():
        names = sorted((path.stem for path in (conf_dir() / group).glob("*.yaml")), key=_natural)
        summary = " ".join((node.__doc__ or "").split())
        lines += [f"  {group:<10} {summary}", f"  {'':<10} {' | '.join(names)}"]
    experiments = sorted(path.stem for path in experiments_dir().glob("*.yaml"))
    lines += [
        "",
        "experiments: " + ("  ".join(experiments) or "none"),
        "",
        "any key of conf/ can be set as group.key=value; sizes also take the paper's number as N/s.",
        "--cfg job prints the composed config; -m seeds=3 makes the seed an axis.",
    ]
    return "\n".join(lines)


def _natural(name: str) -> tuple[str, int]:
    """Sorts s4 before s16."""
    letters = name.rstrip("0123456789")
    return letters, int(name[len(letters) :] or 0)
