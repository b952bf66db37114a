"""The text of ``--help``: the choices, one line per group. Free of heavy imports, so that it appears at once."""

from __future__ import annotations

from tinylm_ablate.arguments import VERBS
from tinylm_ablate.config import GROUPS, Config
from tinylm_ablate.config_values import walk
from tinylm_ablate.paths import conf_dir, experiments_dir

_USAGE = """\
tinylm-ablate: composable, resumable, statistically honest ablations of tiny language models

usage:
  tinylm-ablate [key=value ...]                 one run
  tinylm-ablate -m key=a,b [key=value ...]      a grid: every combination of the values
  tinylm-ablate -m +experiments=NAME            a table or figure of the paper
  tinylm-ablate VERB [...]                      (also: python -m tinylm_ablate ...)

verbs:
{verbs}

examples:
  tinylm-ablate -m arch.depth=20,40 init=inherit
  tinylm-ablate plan -m arch.depth=20,40 init=inherit
  tinylm-ablate data=files data.path=my_texts scale=s16 train.tokens=5M
"""

#: Settings of a verb: keys, and groups of keys.
_OWN = {
    "plan": ("plan",),
    "evaluate": ("model", "evaluate"),
    "generate": ("model", "prompt", "generate"),
    "export": ("model", "folder", "export"),
    "sync": ("runs_dir", "tracking"),
}


def help_text(verb: str = "") -> str:
    """Usage, the config groups with their choices, the experiments, and where to read on; of a verb, what it does."""
    if verb in VERBS:
        own = [f"  {key:<26} {rule['help']}" for key, _, rule in walk(Config()) if key.split(".")[0] in _OWN.get(verb, ())]
        settings = ["", "settings of this verb:", *own] if own else []
        more = "tinylm-ablate --help lists the groups of all other settings; docs/config.md has every one."
        grid = "" if verb in ("generate", "export", "sync") else "[-m] "
        return "\n".join([f"tinylm-ablate {verb} {grid}[key=value ...]", "", VERBS[verb], *settings, "", more])
    verbs = "\n".join(f"  {name:<10} {what}" for name, what in VERBS.items())
    lines = [_USAGE.format(verbs=verbs), "config groups (group=choice):"]
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
