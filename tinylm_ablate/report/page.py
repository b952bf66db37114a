"""The page and the CSV of one experiment."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinylm_ablate.report import measures
from tinylm_ablate.report.arms import Section
from tinylm_ablate.report.compare import Result, compare, written
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.measures import Measure
from tinylm_ablate.report.printed import Printed, number
from tinylm_ablate.report.summary import verdict

#: What follows from the axes and is shown where it differs between arms.
_FOLLOWS = {
    "shape.depth": "depth", "shape.width": "width", "shape.ffn_width": "FFN", "shape.heads": "heads",
    "shape.kv_heads": "KV heads", "shape.vocab_size": "vocabulary", "embedding_head_share": "embedding + head %",
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """All that is shown of the grids of one name.

    Attributes:
        name: Stem of its files.
        title: Its heading.
        sections: Its arms.
        printed: The paper's rows for the arms of each section, or None.
        figures: A figure's path relative to the page, for each section; None where there is no curve.
    """

    name: str
    title: str
    sections: Sequence[Section]
    printed: Sequence[Printed | None]
    figures: Sequence[str | None]

    @property
    def runs(self) -> int:
        """Finished runs in its tables."""
        return sum(len(arm.runs) for section in self.sections for arm in section.arms)


def page(experiment: Experiment) -> str:
    """The experiment in Markdown: quality, validation and cost, the paper beside it, curves, and what may be concluded."""
    parts = [f"# {experiment.title}"]
    for section, printed, figure in zip(experiment.sections, experiment.printed, experiment.figures, strict=True):
        if section.label:
            parts.append(f"## {section.label}")
        parts += _section(section, printed, figure)
    parts.append(
        f"Per seed and with all digits: [{experiment.name}.csv]({experiment.name}.csv) and [runs.csv](runs.csv). "
        "How to read this: [README.md](README.md)."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def comma_separated(experiment: Experiment) -> str:
    """The experiment as CSV: an arm a row; of every measure mean, standard deviation, number of seeds, and the difference to
    the best arm with its 95 % interval; then the paper's row."""
    rows: list[dict[str, str]] = []
    for section, printed in zip(experiment.sections, experiment.printed, strict=True):
        columns = _columns(section)
        shown = [measures.PARAMETERS, measures.TOKENS]
        for split in ("test", "validation"):
            shown += [*measures.bits(columns, split), *measures.cloze(columns, split)]
        shown += measures.COST
        results = {measure.column: compare(section.arms, measure) for measure in shown}
        for index, arm in enumerate(section.arms):
            row = {"setting": section.label, **arm.place, "seeds": str(len(arm.runs))}
            row |= {key: _digits(arm.common(key)) for key in _FOLLOWS}
            for measure in shown:
                row |= _columns_of(measure, results[measure.column][index])
            paper = printed.rows[index] if printed is not None else None
            row |= {f"paper/{key}": value for key, value in (paper or {}).items()}
            rows.append(row)
    stream = io.StringIO()
    head = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(stream, head, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _section(section: Section, printed: Printed | None, figure: str | None) -> list[str]:
    columns = _columns(section)
    follows = [key for key in _FOLLOWS if _differs(section, key)]
    primary = measures.bits(columns, "test")[-1:]
    quality = [*measures.bits(columns, "test"), *measures.cloze(columns, "test")]
    cost = [*measures.bits(columns, "validation"), *measures.COST]
    marks = section.seeds > 1
    places = [[*arm.place.values(), *(_number(arm.common(key)) for key in follows)] for arm in section.arms]
    head = [*section.axis, *(_FOLLOWS[key] for key in follows)]
    counts = [measures.PARAMETERS, measures.TOKENS]

    def lines(shown: Sequence[Measure], first: Sequence[Sequence[str]]) -> list[list[str]]:
        results = [compare(section.arms, measure) for measure in shown]
        return [
            [*cells]
            + [written(result[index], measure, len(arm.runs), marks) for measure, result in zip(shown, results, strict=True)]
            for index, (arm, cells) in enumerate(zip(section.arms, first, strict=True))
        ]

    seeds = [[*place, str(len(arm.runs))] for place, arm in zip(places, section.arms, strict=True)]
    gaps = [[_gap(result, measure) for result in compare(section.arms, measure)] for measure in primary] if marks else []
    first_table = [[*line, *(gap[index] for gap in gaps)] for index, line in enumerate(lines([*counts, *quality], seeds))]
    gap_heads = [f"{measure.title}, to the best [95 %]" for measure in primary] if gaps else []
    words = len(section.axis)
    plain = [[*arm.place.values()] for arm in section.arms]
    parts = [
        _intro(section),
        table([*head, "seeds", *(m.title for m in (*counts, *quality)), *gap_heads], first_table, words),
        verdict(section.arms),
        _errors(section, [*primary, *measures.cloze(columns, "test")[-1:]]),
        "### Validation and cost",
        table([*section.axis, *(measure.title for measure in cost)], lines(cost, plain), words),
    ]
    if printed is not None:
        parts += _beside(section, printed, [*primary, *measures.cloze(columns, "test")[-1:]])
    if figure is not None:
        note = (
            " The vocabularies differ, so these losses, nats a token, do not compare between arms; bits per byte do."
            if "shape.vocab_size" in follows
            else ""
        )
        parts += ["### Loss while training", f"![Training loss over tokens, one line an arm]({figure})", note.strip()]
    if section.doubles:
        parts.append(f"Left out, since another run of the same arm has the same seed: {', '.join(section.doubles)}.")
    return parts


def _intro(section: Section) -> str:
    """What all runs share, in a line."""
    runs = [run for arm in section.arms for run in arm.runs.values()]
    facts = []
    for key, word in (("scale.name", "scale"), ("text.fingerprint", "text"), ("precision", "precision")):
        values = sorted({str(run.values[key]) for run in runs if isinstance(run.values.get(key), str)})
        if len(values) == 1:
            facts.append(f"{word} `{values[0]}`")
    missing = sum(not arm.runs for arm in section.arms)
    facts.append(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}")
    if missing:
        facts.append(f"{missing} {'arm has' if missing == 1 else 'arms have'} no finished run yet")
    return f"{', '.join(facts)}."[0].upper() + f"{', '.join(facts)}."[1:]


def _errors(section: Section, shown: Sequence[Measure]) -> str:
    """How much of the numbers is the choice of documents and questions, which all arms share."""
    facts = []
    for measure in shown:
        values = [value for arm in section.arms for value in arm.by_seed(f"{measure.column}/standard_error").values()]
        if values:
            facts.append(f"{measure.text(math.fsum(values) / len(values))} for {measure.title}")
    if not facts:
        return ""
    guess = f" Guessing gives a cloze of {100 * measures.CHANCE:.0f} %." if len(facts) > 1 else ""
    return f"Mean standard error of one run over documents and questions, which all arms share: {', '.join(facts)}.{guess}"


def _gap(result: Result, measure: Measure) -> str:
    if result.best:
        return "best"
    if result.difference is None:
        return "–"
    gap = result.difference
    return f"{measure.signed(gap.mean)} [{measure.signed(gap.low)}, {measure.signed(gap.high)}]"


def _beside(section: Section, printed: Printed, shown: Sequence[Measure]) -> list[str]:
    if not any(printed.rows):
        return []
    results = [compare(section.arms, measure) for measure in shown]
    rows = []
    for index, (arm, paper) in enumerate(zip(section.arms, printed.rows, strict=True)):
        ours = [measure.text(result[index].mean) for measure, result in zip(shown, results, strict=True)]
        rows.append([*arm.place.values(), *ours, *((paper or {}).get(column, "–") for column in printed.columns)])
    head = [*section.axis, *(f"here: {m.title}" for m in shown), *(f"paper: {c.replace('_', ' ')}" for c in printed.columns)]
    return [
        "### Beside the paper",
        table(head, rows, len(section.axis)),
        f"The paper's numbers are `{printed.name}`, single runs of its 1B models on its own text and tasks: "
        "the order of the arms can be compared, the values cannot.",
    ]


def _columns(section: Section) -> list[str]:
    return list(dict.fromkeys(key for arm in section.arms for run in arm.runs.values() for key in run.values))


def _differs(section: Section, key: str) -> bool:
    """Whether a column tells arms apart and does not only repeat an axis."""
    values = [arm.common(key) for arm in section.arms if arm.runs]
    repeats = any(all(number(arm.place[axis]) == arm.common(key) for arm in section.arms if arm.runs) for axis in section.axis)
    return len({value for value in values if value is not None}) > 1 and not repeats


def _columns_of(measure: Measure, result: Result) -> Mapping[str, str]:
    name = measure.column
    cells = {name: _digits(result.mean)}
    if measure.kind != "count":
        cells |= {f"{name}/deviation": _digits(result.deviation), f"{name}/seeds": str(len(result.values))}
    if measure.better:
        gap = result.difference
        cells |= {
            f"{name}/best": str(result.best).lower(),
            f"{name}/difference": "" if gap is None else _digits(gap.mean),
            f"{name}/low": "" if gap is None else _digits(gap.low),
            f"{name}/high": "" if gap is None else _digits(gap.high),
        }
    return cells


def _digits(value: Any) -> str:
    """A value for a CSV, numbers with ten significant digits."""
    if value is None or value != value:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> str:
    """A value for a table, numbers with at most two decimals."""
    if value is None:
        return "–"
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
