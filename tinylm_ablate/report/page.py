"""The page and the CSV of one experiment."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from tinylm_ablate.grid.summary import verdict
from tinylm_ablate.report import measures
from tinylm_ablate.report.arms import Arm, Run, Section, columns_of, short
from tinylm_ablate.report.compare import Result, compare, written
from tinylm_ablate.report.judge import Judgement
from tinylm_ablate.report.markdown import table
from tinylm_ablate.report.measures import Measure
from tinylm_ablate.report.paired import tests
from tinylm_ablate.report.printed import Printed, number
from tinylm_ablate.report.statistics import mean_and_deviation
from tinylm_ablate.report.verdicts import own

#: What follows from the axes and is shown where it differs between arms.
_FOLLOWS = {
    "shape.depth": "depth", "shape.width": "width", "shape.ffn_width": "FFN", "shape.heads": "heads",
    "shape.kv_heads": "KV heads", "shape.vocab_size": "vocabulary", "embedding_head_share": "embedding + head %",
}  # fmt: skip

#: What the user called the model whose weights a run starts from.
_PARENT = "origin.parent.reference"

#: What the paper prints beside quality -> the same of our runs.
_COUNTERPARTS = {
    "pehl_percent": "embedding_head_share", "accumulated_frequency_percent": "vocabulary.accumulated_frequency_percent",
    "width": "shape.width", "heads": "shape.heads", "tokens_per_second_v100": measures.DECODE.column,
}  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """All that is shown of the grids of one name.

    Attributes:
        name: Stem of its files.
        title: Its heading.
        note: What a reader must know beside the table.
        sections: Its arms.
        printed: The paper's rows for the arms of each section, or None.
        figures: A figure's path relative to the page, for each section; None where there is no curve.
        more: Further parts of each section, in Markdown.
        judgements: Verdicts on the claims about each section.
    """

    name: str
    title: str
    note: str
    sections: Sequence[Section]
    printed: Sequence[Printed | None]
    figures: Sequence[str | None]
    more: Sequence[Sequence[str]]
    judgements: Sequence[Sequence[Judgement]]

    @property
    def runs(self) -> int:
        """Finished runs in its tables."""
        return sum(len(arm.runs) for section in self.sections for arm in section.arms)


def page(experiment: Experiment) -> str:
    """The experiment in Markdown: quality, verdicts, the paper beside it, paired tests, validation and cost, curves, runs."""
    parts = [f"# {experiment.title}", experiment.note]
    shown = zip(
        experiment.sections, experiment.printed, experiment.figures, experiment.more, experiment.judgements, strict=True
    )
    for section, printed, figure, more, judgements in shown:
        # A heading also where there is a single section, so that those below it follow without a gap.
        parts.append(f"## {section.label or 'Results'}")
        parts += [*_section(section, printed, figure, judgements), *more, *_runs(section)]
    parts.append(
        f"Per seed and with all digits: [{experiment.name}.csv]({experiment.name}.csv) and [runs.csv](runs.csv); the tables in "
        f"LaTeX: [{experiment.name}.tex]({experiment.name}.tex). How to read this: [README.md](README.md)."
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def comma_separated(experiment: Experiment) -> str:
    """The experiment as CSV: an arm a row; of every measure mean, standard deviation, number of seeds, and the difference to
    the best arm with its 95 % interval; then the paper's row."""
    rows: list[dict[str, str]] = []
    for section, printed in zip(experiment.sections, experiment.printed, strict=True):
        columns = columns_of(section.arms)
        shown = [measures.PARAMETERS, measures.TOKENS]
        for split in ("test", "validation"):
            shown += [*measures.bits(columns, split), *measures.cloze(columns, split)]
        shown += _cost(section)
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


def _section(section: Section, printed: Printed | None, figure: str | None, judgements: Sequence[Judgement]) -> list[str]:
    columns = columns_of(section.arms)
    follows = [key for key in _FOLLOWS if _differs(section, key)]
    primary = measures.bits(columns, "test")[-1:]
    quality = [*measures.bits(columns, "test"), *measures.cloze(columns, "test")]
    cost = [*measures.bits(columns, "validation"), *_cost(section)]
    marks = section.seeds > 1
    places = [[*_place(arm), *(_number(arm.common(key)) for key in follows)] for arm in section.arms]
    head = [*section.axis, *(_FOLLOWS[key] for key in follows)]
    counts = [measures.PARAMETERS, measures.TOKENS]
    results = {measure.column: compare(section.arms, measure) for measure in (*counts, *quality, *cost)}

    def lines(shown: Sequence[Measure], first: Sequence[Sequence[str]]) -> list[list[str]]:
        return [
            [*cells, *(written(results[measure.column][index], measure, len(arm.runs), marks) for measure in shown)]
            for index, (arm, cells) in enumerate(zip(section.arms, first, strict=True))
        ]

    seeds = [[*place, str(len(arm.runs))] for place, arm in zip(places, section.arms, strict=True)]
    gaps = [[_gap(result, measure) for result in results[measure.column]] for measure in primary] if marks else []
    first_table = [[*line, *(gap[index] for gap in gaps)] for index, line in enumerate(lines([*counts, *quality], seeds))]
    gap_heads = [f"{measure.title}, to the best [95 %]" for measure in primary] if gaps else []
    words = len(section.axis)
    plain = [_place(arm) for arm in section.arms]
    shown = [*primary, *measures.cloze(columns, "test")[-1:]]
    parts = [
        _intro(section),
        table([*head, "seeds", *(m.title for m in (*counts, *quality)), *gap_heads], first_table, words),
        verdict(section.arms),
        _errors(section, shown),
        *own(judgements),
    ]
    if printed is not None:
        parts += _beside(section, printed, shown)
    for measure in primary:
        parts += tests(section, measure)
    parts += [
        "### Validation and cost",
        table([*section.axis, *(measure.title for measure in cost)], lines(cost, plain), words),
        _protocol(section),
    ]
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


def _runs(section: Section) -> list[str]:
    """What each run cost, with a link to its record, and what it starts from, the cost of which comes on top."""
    starts = {
        run.identity: _parent(run)
        for arm in section.arms
        for run in arm.runs.values()
        if isinstance(run.values.get(_PARENT), str)
    }
    rows = [
        [
            f"[{run.identity}](records/{run.identity}.json)",
            arm.label,
            str(run.seed),
            *(measure.text(_value(run, measure.column)) for measure in (measures.PARAMETERS, measures.TOKENS)),
            _exponent(_value(run, "flops_per_token.training") * _value(run, measures.TOKENS.column)),
            *(measure.text(_value(run, measure.column)) for measure in (measures.SECONDS, measures.SPEED)),
            str(run.values.get("provenance.machine.accelerator") or run.values.get("provenance.machine.processor") or "–"),
            *([starts.get(run.identity, "–")] if starts else []),
        ]
        for arm in section.arms
        for _, run in sorted(arm.runs.items())
    ]
    head = ["run", "arm", "seed", "parameters", "tokens", "training FLOPs", "training s", "training tokens/s", "machine"]
    if starts:
        head.append("starts from")
    told = ["The training of what a run starts from comes on top, once for all runs that start from it."] if starts else []
    return ["### Runs and what they cost", table(head, rows, 2), *told] if rows else []


def _parent(run: Run) -> str:
    """The model whose weights a run starts from: the name of its folder or file."""
    return f"`{PurePath(str(run.values[_PARENT])).name}`"


def _value(run: Run, column: str) -> float:
    value = run.values.get(column)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _exponent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2e}".replace("e+", "e")


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
    if result.difference is None or math.isinf(result.difference.reach()):
        return "–"
    gap = result.difference
    return f"{measure.signed(gap.mean)} [{measure.signed(gap.low)}, {measure.signed(gap.high)}]"


def _beside(section: Section, printed: Printed, shown: Sequence[Measure]) -> list[str]:
    if not any(printed.rows):
        return []
    known = set(columns_of(section.arms))
    also = {column: own for column, own in _COUNTERPARTS.items() if column in printed.columns and own in known}
    # What stands for the same thing stands side by side, before the measures of quality, which do not.
    columns = [*also, *(column for column in printed.columns if column not in also)]
    rows = []
    for arm, paper in zip(section.arms, printed.rows, strict=True):
        cells = _place(arm)
        for column in columns:
            if column in also:
                cells.append(_mean(arm, also[column]))
            cells.append((paper or {}).get(column, "–"))
        ours = [measure.text(mean_and_deviation(list(arm.by_seed(measure.column).values()))[0]) for measure in shown]
        rows.append([*cells[: len(section.axis) + 2 * len(also)], *ours, *cells[len(section.axis) + 2 * len(also) :]])
    pairs = [f"{whose}: {_words(column)}" for column in also for whose in ("here", "paper")]
    rest = [f"paper: {_words(column)}" for column in columns if column not in also]
    head = [*section.axis, *pairs, *(f"here: {m.title}" for m in shown), *rest]
    return [
        "### Beside the paper",
        table(head, rows, len(section.axis)),
        f"The paper's numbers are `{printed.name}`, single runs of its 1B models on its own text and tasks: "
        "the order of the arms can be compared, the values cannot.",
    ]


def _cost(section: Section) -> list[Measure]:
    """The costs that were measured in every arm: the speed of decoding is, where the experiment asks for it."""
    arms = [arm for arm in section.arms if arm.runs]
    return [measure for measure in measures.COST if all(arm.by_seed(measure.column) for arm in arms)]


def _protocol(section: Section) -> str:
    """How the speed of decoding was measured, in a line; empty where it was not."""
    if measures.DECODE not in _cost(section):
        return ""
    keys = ("batch", "prefix", "new_tokens", "repeats", "precision", "threads", "device", "machine")
    found = {
        tuple(run.values.get(f"decode.{key}") for key in keys)
        for arm in section.arms
        for seed, run in arm.runs.items()
        if seed in arm.by_seed(measures.DECODE.column)
    }
    lines = [
        f"{_number(new)} new tokens after {_number(prefix)}, batch {_number(batch)}, the fastest of {_number(repeats)}, "
        f"random weights in {precision}, "
        f"on {machine}" + (f" with threads={_number(threads)}" if device == "cpu" else "")
        for batch, prefix, new, repeats, precision, threads, device, machine in sorted(found, key=str)
    ]
    paper = "The paper: 510 new tokens after 2, batch 20, FP16, one V100."
    return f"decode tokens/s, of the whole batch: {'; or '.join(lines)}. {paper}"


def _place(arm: Arm) -> list[str]:
    return [short(text) for text in arm.place.values()]


def _mean(arm: Arm, column: str) -> str:
    values = list(arm.by_seed(column).values())
    mean = math.fsum(values) / len(values) if values else math.nan
    if column == measures.DECODE.column or math.isnan(mean):
        return measures.DECODE.text(mean)
    return _number(mean)


def _words(column: str) -> str:
    known = {"pehl_percent": "embedding + head %", "tokens_per_second_v100": "tokens/s"}
    return known.get(column, column.replace("_percent", " %").replace("_", " "))


def _differs(section: Section, key: str) -> bool:
    """Whether a column tells arms apart and does not only repeat an axis."""
    values = [arm.common(key) for arm in section.arms if arm.runs]
    if key == "shape.kv_heads" and all(arm.common(key) == arm.common("shape.heads") for arm in section.arms):
        return False
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
            f"{name}/low": "" if gap is None or math.isinf(gap.low) else _digits(gap.low),
            f"{name}/high": "" if gap is None or math.isinf(gap.high) else _digits(gap.high),
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
