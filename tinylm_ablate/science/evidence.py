"""The frames that statistics are computed from, and the groups of runs that may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evidence:
    """All that is known about the finished runs of one experiment.

    Attributes:
        experiment: Its name.
        axis: Keys that tell its arms apart: dotted configuration keys, config groups such as "init", or "arm"; not "seed".
        runs: One row per cell of a grid with a finished run and measure setting. Columns:

            - ``identity`` (str), ``grid`` (str, the identity of the grid), ``arm`` (str, one label per place on the axes);
            - ``seed``, ``tokens``, ``steps`` (numbers), ``scale`` (str), ``parameters.total`` (number);
            - ``role``: "arm", or "tuning" for the runs that only choose a learning rate; absent means "arm" throughout;
            - ``tuned``: "interior", "edge" or "untuned", what became of the arm's tuning; absent means "untuned" throughout;
            - one column per key of ``axis`` with the word of the override, as "8000/s";
            - one column per setting, with dotted keys, and one per metric, with its flat name.
        documents: Columns identity, split, language, document, nats, bytes; None where none are known.
        questions: Columns identity, split, language, question, correct; None where none are known.
        curves: Training curves: identity, tokens, bits (bits per byte of the text that is trained on, or of validation text).
    """

    experiment: str
    axis: Sequence[str]
    runs: pd.DataFrame = field(repr=False)
    documents: pd.DataFrame | None = field(default=None, repr=False)
    questions: pd.DataFrame | None = field(default=None, repr=False)
    curves: pd.DataFrame | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their arm and seed.

    Attributes:
        scale: Name of the scale.
        parameters: Parameters of the reference arm: the median over arms.
        tokens: Of the arm that has most.
        steps: Of the arm that has fewest.
        others: Settings, other than scale and budget, that set this group apart from other groups of the experiment.
        evidence: The rows of these runs; ``evidence.runs`` has each arm and seed once.
        doubles: Identities left out because another run has the same arm and seed.
    """

    scale: str
    parameters: float
    tokens: float
    steps: float
    others: tuple[tuple[str, str], ...]
    evidence: Evidence
    doubles: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Scale, tokens, steps and what else sets it apart; never empty: "s32, 7.5M tokens, 3,637 steps"."""
        raise NotImplementedError


def settings(evidence: Evidence) -> list[Setting]:
    """The groups of comparable runs, larger scales and budgets first; tuning runs are left out."""
    raise NotImplementedError


def by_seed(setting: Setting, arm: str, metric: str) -> dict[int, float]:
    """A metric of an arm by seed; runs without it are left out."""
    raise NotImplementedError
