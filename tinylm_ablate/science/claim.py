"""Claims: statements of the paper, or of anyone, as data that finished runs are held against."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "claims"

TestKind = Literal["ordering", "equivalence", "no_worse", "threshold", "rule", "correlation"]
Gate = Literal["bigrams", "steps", "tuned"]


@dataclass(frozen=True)
class Test:
    """One test of a claim.

    Attributes:
        kind: See the documentation of claims.
        metric: Arm to column; under "" the column of all arms of a rule or correlation.
        direction: 1 where more of the metric is better, -1 where less is.
        margin: The smallest effect that matters, in the metric's unit (0.1 is 10 % where ``relative``); None stands for what
            5 % more tokens are worth to the reference arm.
        comparisons: (an arm, the arms whose mean it is compared with), in order; of a threshold the second are empty.
        bound: (number, 1 if the metric is to be above it and -1 if below), of a threshold.
        conditions: Column to such a bound, of a rule.
        column: Column that is correlated with quality.
        sign: 1, -1 or 0, the direction of a correlation; 0 is none.
        largest_of: Columns whose correlations are weaker.
        relative, exact, equal_tokens: Ratios are compared; the metric is a count or measured once; arms must have seen equally
            many tokens.
        paper_column, paper_direction, paper_row: Where the paper prints the effect.
    """

    kind: TestKind
    metric: Mapping[str, str]
    direction: int
    margin: float | None
    comparisons: Sequence[tuple[str, Sequence[str]]] = ()
    bound: tuple[float, int] | None = None
    conditions: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    column: str = ""
    sign: int = 1
    largest_of: Sequence[str] = ()
    relative: bool = False
    exact: bool = False
    equal_tokens: bool = False
    paper_column: str | None = None
    paper_direction: int = 1
    paper_row: str | None = None


@dataclass(frozen=True)
class Claim:
    """A claim.

    Attributes:
        name: Stem of its file.
        title: What it says.
        source: Where it says so.
        experiment: Name of the experiment that it is judged by.
        arms: Name to overrides.
        tests: All of them must hold.
        ours: It is not the paper's, and is counted apart.
        reference: Arm of the gate and of margins in tokens; the second of the first comparison unless named.
        gates: Which gates apply; all unless the claim says otherwise.
        printed: Arm to the paper's row for it, as text; empty where the paper prints none.
        column: The column of these rows that is compared.
        correlations: Row key to the paper's row, for a correlation.
        note: What a reader must know beside the verdict.
    """

    name: str
    title: str
    source: str
    experiment: str
    arms: Mapping[str, Mapping[str, str]]
    tests: Sequence[Test]
    ours: bool = False
    reference: str | None = None
    gates: Collection[Gate] = ("bigrams", "steps", "tuned")
    printed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    column: str = ""
    correlations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    note: str = ""


def read_claims(
    folder: Path | None = None, keys: Collection[str] | None = None, tables: Mapping[str, pd.DataFrame] | None = None
) -> list[Claim]:
    """The claims of this package and those of ``folder``, sorted by name; one of the same file name replaces ours.

    Args:
        folder: Holds one YAML file per claim.
        keys: Every key that an arm's overrides may name: configuration keys, config groups, "arm"; None accepts any.
        tables: The paper's printed tables by name, all columns as text.

    Raises:
        UserError: With every mistake in every file.
    """
    raise NotImplementedError


def parse(
    name: str, content: Any, keys: Collection[str] | None = None, tables: Mapping[str, pd.DataFrame] | None = None
) -> tuple[Claim | None, list[str]]:
    """The claim that a file's content describes, and every mistake in it."""
    raise NotImplementedError
