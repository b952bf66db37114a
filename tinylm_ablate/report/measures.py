"""Measures in the report, and their format in tables and on axes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tinylm_ablate.measure.benchmarks import AVERAGES
from tinylm_ablate.measure.harness import LISTS

Kind = Literal["bits", "share", "percent", "count", "rate", "number"]

_DIAL = re.compile(r"\s*(\d+)\s*/\s*s\s*")
_BITS = re.compile(r"(validation|test)/bits_per_byte/([^/]+)")
_CLOZE = re.compile(r"(validation|test)/cloze/([^/]+)")

#: Share of right answers in a four-way cloze by chance.
CHANCE = 0.25


@dataclass(frozen=True)
class Measure:
    """One number of a run.

    Attributes:
        column: Its column.
        title: Head of the column in a table.
        kind: Its format: bits with four decimals, a share in percent, a percent with two decimals, a count with k, M and G, a
            rate per second, or a number with four digits.
        better: -1 if lower is better, 1 if higher is better, 0 if it is not compared.
    """

    column: str
    title: str
    kind: Kind
    better: int = 0

    def text(self, value: float) -> str:
        """A value without its unit."""
        if math.isnan(value):
            return "–"
        match self.kind:
            case "bits":
                return f"{value:.4f}"
            case "share":
                return f"{100 * value:.1f}"
            case "percent":
                return f"{value:.2f}"
            case "count":
                return count(value)
            case "rate":
                return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            case "number":
                return f"{value:.4g}"

    def signed(self, value: float) -> str:
        """A difference, with its sign."""
        return f"{'+' if value >= 0 else '−'}{self.text(abs(value))}"


PARAMETERS = Measure("parameters.total", "parameters", "count")
TOKENS = Measure("tokens", "tokens", "count")
SPEED = Measure("train/tokens_per_second", "training tokens/s", "rate")
DECODE = Measure("decode/tokens_per_second", "decode tokens/s", "rate")
SECONDS = Measure("train/seconds", "training s", "rate")
COST = (SPEED, SECONDS, DECODE)


def bits(columns: Iterable[str], split: str) -> list[Measure]:
    """Bits per byte of a split, one measure per language, and the mean last."""
    languages = _languages(columns, _BITS, split)
    return [Measure(f"{split}/bits_per_byte/{name}", f"bits/byte {name}", "bits", -1) for name in languages]


def cloze(columns: Iterable[str], split: str) -> list[Measure]:
    """Share of right answers, one measure per language, and the mean last."""
    languages = _languages(columns, _CLOZE, split)
    return [Measure(f"{split}/cloze/{name}", f"cloze {name} %", "share", 1) for name in languages]


def averages(columns: Iterable[str]) -> list[Measure]:
    """Available averages over benchmarks as in the paper."""
    known = set(columns)
    return [
        Measure(f"benchmarks/average/{name}", f"average of {len(LISTS[name])} benchmarks", "percent", 1)
        for name in AVERAGES
        if f"benchmarks/average/{name}" in known
    ]


def also(columns: Iterable[str]) -> list[Measure]:
    """Measures of specific experiments: quantized exports, llama.cpp and our decoder, the diversity of features."""
    found = []
    for column in sorted(columns):
        if match := re.fullmatch(r"quantized/(\w+)/added/all", column):
            found.append(Measure(column, f"bits/byte added by {match[1]}", "bits", -1))
        elif match := re.fullmatch(r"decode/(?:llama_cpp/)?(\w+)/(tokens_per_second|memory)", column):
            whose = "our decoder" if match[1] == "own" else f"llama.cpp {match[1]}"
            speed = match[2] == "tokens_per_second"
            found.append(Measure(column, f"{whose} {'tokens/s' if speed else 'bytes'}", "rate" if speed else "count"))
        elif column == "effective_dimension/mean":
            found.append(Measure(column, "effective dimension", "number", 1))
    return found


def direction(column: str) -> int:
    """Return -1 if lower values of a column are better, 1 if higher ones are, and 0 if that is unknown."""
    if re.search(r"(^|[/_])(loss|perplexity)\b|bits_per_byte|^quantized/", column):
        return -1
    known = [*cloze([column], "validation"), *cloze([column], "test"), *also([column])]
    return 1 if column.startswith("benchmarks/") else max((measure.better for measure in known), default=0)


def by_name(column: str, better: int) -> Measure:
    """Return the measure of any column: bits and shares as in the tables, and others as numbers.

    Args:
        column: Such as "test/bits_per_byte/all" or "forgetting/part_1".
        better: -1 if lower is better, 1 if higher is better.
    """
    if match := _BITS.fullmatch(column):
        return Measure(column, f"bits/byte {match[2]}" + _split(match[1]), "bits", better)
    if match := _CLOZE.fullmatch(column):
        return Measure(column, f"cloze {match[2]} %" + _split(match[1]), "share", better)
    for known in (PARAMETERS, TOKENS, *COST, *averages([column]), *also([column])):
        if known.column == column:
            return Measure(column, known.title, known.kind, better)
    return Measure(column, column, "bits" if "/bits_per_byte/" in column else "number", better)


def _split(split: str) -> str:
    return "" if split == "test" else f", {split}"


def _languages(columns: Iterable[str], pattern: re.Pattern[str], split: str) -> list[str]:
    found = {match[2] for column in columns if (match := pattern.fullmatch(column)) and match[1] == split}
    names = sorted(found - {"all"})
    # With a single language, the mean is redundant.
    return names if len(names) == 1 else [*names, *(["all"] if "all" in found else [])]


def count(value: float) -> str:
    """Format a count of parameters or tokens with four digits: 951,983,872 is 952M."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:g}"


def number(text: str) -> float | None:
    """Parse a number, "48000/s" being 48000; None for a word."""
    match = _DIAL.fullmatch(text)
    try:
        return float(match[1] if match else text)
    except ValueError:
        return None


def as_float(value: object) -> float:
    """Return a number, or NaN for anything else."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
