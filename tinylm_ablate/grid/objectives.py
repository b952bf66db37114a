"""Objectives of a search: names of metrics, and their direction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate.config import Config, EvaluateConfig
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.measure.speed import METRIC as DECODE_SPEED

#: Allowed metrics as patterns, and whether higher is better. "all" is the mean over the languages.
_KNOWN = {
    r"(validation|test)/bits_per_byte/[^/]+": False,
    r"test/cloze/[^/]+": True,
    re.escape(DECODE_SPEED): True,
    r"train/loss": False,
    r"train/seconds": False,
    r"train/tokens_per_second": True,
}


@dataclass(frozen=True)
class Objective:
    """A metric of a run, and whether higher is better."""

    name: str
    maximize: bool

    @property
    def language(self) -> str | None:
        """Its language; None if it has none, or for the mean over all."""
        split, _, rest = self.name.partition("/")
        language = rest.partition("/")[2] if split in {"validation", "test"} else ""
        return None if language in {"", "all"} else language

    @property
    def title(self) -> str:
        """The name with an arrow in the better direction."""
        return f"{self.name} {'↑' if self.maximize else '↓'}"


def parse_objectives(names: Sequence[str], evaluate: EvaluateConfig) -> tuple[list[Objective], list[str]]:
    """Return the objectives, and mistakes in them."""
    found: list[Objective] = []
    mistakes: list[str] = []
    if not names:
        mistakes.append("search.objectives=[]: allowed: at least one metric, such as validation/bits_per_byte/all")
    for name in dict.fromkeys(names):
        maximize = next((more for pattern, more in _KNOWN.items() if re.fullmatch(pattern, name)), None)
        if maximize is None:
            mistakes.append(
                f"search.objectives=[{name}]: allowed: validation/bits_per_byte/LANGUAGE, test/bits_per_byte/LANGUAGE, "
                f"test/cloze/LANGUAGE (LANGUAGE may be all), {DECODE_SPEED}, train/loss, train/seconds, train/tokens_per_second"
            )
        elif name.startswith("test/cloze/") and not evaluate.cloze_questions:
            mistakes.append(f"search.objectives=[{name}]: allowed with evaluate.cloze_questions above 0")
        else:
            found.append(Objective(name, maximize))
    return found, mistakes


def check_languages(objectives: Sequence[Objective], config: Config) -> None:
    """Refuse metrics of languages that are not in the corpus.

    Raises:
        ConfigError: A language is not in the corpus.
        UserError: The text cannot be read.
    """
    from tinylm_ablate.data.corpus import open_corpus

    if all(objective.language is None for objective in objectives):
        return
    known = open_corpus(config.data, Path(config.cache_dir)).languages
    mistakes = [
        f"search.objectives=[{objective.name}]: the text has no such language; allowed: all, {', '.join(known)}"
        for objective in objectives
        if objective.language is not None and objective.language not in known
    ]
    if mistakes:
        raise ConfigError(mistakes)
