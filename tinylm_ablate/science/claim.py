"""Claims: statements by the paper or others, as data for testing with finished runs.

A claim names an experiment, its arms by their overrides, one or more tests, and its source. The paper's effect is computed
from its tables. The paper's claims are in ``claims/``; users may have a folder of their own, in which a file replaces ours of
the same name. For instance:

    title: A medium vocabulary beats both a small and a large one
    source: Section 2.1, Table 1
    experiment: table01_tokenizer
    reference: middle
    arms:
      small: {tokenizer.vocab_size: 8000/s}
      middle: {tokenizer.vocab_size: 48000/s}
      large: {tokenizer.vocab_size: 100883/s}
    paper: {table: table01_tokenizer, key: vocab_size, column: average, rows: {small: 8000, middle: 48000, large: 100883}}
    tests:
      - {kind: ordering, better: [middle], than: [small, large], metric: test/bits_per_byte/all, direction: less}

``ours: true`` marks a claim that is not the paper's. ``reference`` is the arm of the gates and of margins in tokens; by
default, the second arm of the first comparison. ``gates`` lists the gates that apply; the default is all of bigrams, steps,
tuned.

Kinds of test:

- ``ordering``: ``order: [best, …, worst]`` compares each arm with the next; ``better: […]`` with ``than: […]`` each of the
  first with each of the second; ``better: […]`` with ``than_mean_of: […]`` with the mean of several.
- ``no_worse``: the same, but an arm may be worse by less than the margin.
- ``equivalence``: any two of ``arms`` differ by less than the margin.
- ``threshold``: the metric of ``arm`` is ``above`` or ``below`` a bound by at least the margin.
- ``rule``: arms that meet all ``conditions``, such as {embedding_head_share: {below: 20}}, are on average better than each arm
  that does not.
- ``correlation``: Spearman's rank correlation of ``column`` with the quality of all arms has the sign ``sign`` and exceeds
  the margin; with sign 0, it is within the margin. With ``largest_of``, its size also exceeds that of each column in the list.

``metric`` is a column, or one per arm: {early: forgetting/part_1, late: forgetting/part_8}. Columns are also "curve/start" and
"curve/end" of the training loss (first fiftieth and last twentieth of the tokens), and "along/0.5/test/bits_per_byte/all" for
values measured along the run (``evaluate.every``), here after half of its tokens, interpolated linearly. ``margin`` is the
smallest effect that matters: a number in the unit of the metric, or ``tokens``, the default: the effect of 5 % more tokens on
the reference arm. ``relative`` compares ratios (a margin of 0.1 is 10 %). ``exact`` states that the metric is a count, or
measured once, and does not depend on seeds. ``equal_tokens`` requires arms with equal numbers of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

#: All gates.
GATES = ("bigrams", "steps", "tuned")


@dataclass(frozen=True)
class Test:
    """One test of a claim.

    Attributes:
        kind: One of the kinds above.
        metric: Arm to column; for a rule or correlation, "" to the column of all arms.
        direction: 1 if higher is better, -1 if lower is better.
        margin: The smallest effect that matters, in the metric's unit, or the logarithm of a ratio if ``relative``; None is
            the effect of 5 % more tokens on the reference arm.
        comparisons: (an arm, the arms whose mean it is compared with), in order; the latter are empty for a threshold.
        bound: (number, 1 if the metric must be above it and -1 if below), for a threshold.
        conditions: Column to such a bound, for a rule.
        column, sign, largest_of: For a correlation.
        relative, exact, equal_tokens: See the beginning of this file.
        paper_column, paper_direction, paper_row: Location of the effect in the paper's table, and whether higher is better.
    """

    kind: str
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
        title: The statement.
        source: Its source.
        experiment: Name of the experiment that tests it.
        arms: Name to overrides.
        tests: All of them must hold.
        ours: Whether it is not the paper's, and counted separately.
        reference: Arm of the gates and of margins in tokens; empty for the arms of a rule or correlation.
        gates: Gates that apply.
        printed: Arm to the paper's row for it, as text; empty if the paper has none.
        column: Column of these rows to compare.
        correlations: Row key to the paper's row, for a correlation.
        note: Note for readers, shown with the verdict.
    """

    name: str
    title: str
    source: str
    experiment: str
    arms: Mapping[str, Mapping[str, str]]
    tests: Sequence[Test]
    ours: bool = False
    reference: str = ""
    gates: Collection[str] = GATES
    printed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    column: str = ""
    correlations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    note: str = ""

    def paper_effect(self, test: Test, first: str, others: Sequence[str]) -> float | None:
        """Return the paper's effect in its unit, the logarithm of a ratio if the test is relative; None if not printed."""
        column = test.paper_column or self.column
        try:
            own, *rest = (float(self.printed[name][column]) for name in (first, *others))
        except (KeyError, ValueError):
            return None
        if test.bound is not None:
            return test.bound[1] * (own - test.bound[0])
        mean = math.fsum(rest) / len(rest)
        return test.paper_direction * (math.log(own / mean) if test.relative else own - mean)
