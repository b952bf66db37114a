"""Tables of an experiment's page: arms, paired tests, the paper's numbers, costs and runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tinylm_ablate.frames.arms import axis_column
from tinylm_ablate.frames.grid_file import short
from tinylm_ablate.measure.benchmarks import column_of
from tinylm_ablate.measure.harness import LISTS
from tinylm_ablate.report import measures
from tinylm_ablate.report.blocks import Block, Cell, Heading, Inline, Items, Piece, Row, Table, Text, code, quiet, styled
from tinylm_ablate.report.measures import Measure, as_float
from tinylm_ablate.report.printed import Printed
from tinylm_ablate.science.estimate import Estimate
from tinylm_ablate.science.evidence import Evidence, Setting, settings
from tinylm_ablate.science.pairs import Result, pairs, results

if TYPE_CHECKING:
    import pandas as pd

#: Mark of a value that cannot be distinguished from the best of its column.
WITHIN_NOISE = "≈"

#: Number of pairs above which only those with the best arm are listed, and maximum number of runs listed.
_MOST_PAIRS, _MOST_RUNS = 15, 300

#: Values derived from the axes, which are shown if they differ between arms.
_FOLLOWS = {
    "shape.depth": "depth", "shape.width": "width", "shape.ffn_width": "FFN", "shape.heads": "heads",
    "shape.kv_heads": "KV heads", "shape.vocab_size": "vocabulary", "embedding_head_share": "embedding + head %",
}  # fmt: skip

#: The paper's columns other than quality -> our columns.
_COUNTERPARTS = {
    "pehl_percent": "embedding_head_share", "accumulated_frequency_percent": "vocabulary.accumulated_frequency_percent",
    "width": "shape.width", "heads": "shape.heads", "tokens_per_second_v100": measures.DECODE.column,
}  # fmt: skip


def arms_table(setting: Setting, primary: Measure | None) -> list[Block]:
    """Return the table of the arms: the measure, its difference from the best, then everything else."""
    runs, axis = setting.runs, setting.evidence.axis
    known = known_columns(setting)
    quality = [*measures.bits(known, "test"), *measures.cloze(known, "test")[-1:], *measures.averages(known)]
    shown = [*([primary] if primary else []), *(measure for measure in quality if measure != primary)]
    # Only these are tested; single languages are shown as means.
    tested = [measure for measure in shown if measure == primary or "/cloze/" in measure.column]
    found = {measure.column: results(setting, measure.column, measure.better) for measure in tested}
    own_axes = {key.split(".")[-1] for key in axis}
    follows = [key for key in _FOLLOWS if varies(runs, key) and key.split(".")[-1] not in own_axes]
    marks = int(runs.groupby("arm")["seed"].nunique().max()) > 1
    head = [*axis, *(measure.title for measure in shown[:1])]
    head += ["vs. best [95 %]"] if marks and shown else []
    head += [*(measure.title for measure in shown[1:]), "seeds", "parameters", "tokens", *(_FOLLOWS[key] for key in follows)]
    rows: list[Row] = []
    for index, (arm, place) in enumerate(zip(setting.arms, places_of(setting), strict=True)):
        own = runs[runs["arm"] == arm]
        seeds = own["seed"].nunique()
        cells = _named(arm, place)
        for number, measure in enumerate(shown):
            if measure.column not in found:
                cells.append(_mean(own, measure))
                continue
            result = found[measure.column][index]
            cells.append(value_cell(result, measure, seeds, marks))
            if number == 0 and marks:
                cells.append(_gap(result, measure))
        sizes = [_mean(own, measure) for measure in (measures.PARAMETERS, measures.TOKENS)]
        rows.append([*cells, seeds, *sizes, *(_mean(own, Measure(key, "", "number")) for key in follows)])
    if not axis:
        head.insert(0, "arm")
    return [Table(head, rows, max(1, len(axis)), "Results of each arm"), Text(_reading(setting, marks, shown))]


def _reading(setting: Setting, marks: bool, shown: Sequence[Measure]) -> Inline:
    """State possible conclusions from the table, in two sentences."""
    pieces: list[Piece] = []
    if setting.runs["arm"].nunique() > 1:
        if marks:
            pieces += styled(
                "Mean ± standard deviation over seeds. **Bold**: every other arm is significantly worse. "
                f"{WITHIN_NOISE}: cannot be distinguished from the best of its column "
                "(paired test, Holm's correction for all pairs). "
            )
        else:
            pieces += ["One seed: nothing can be concluded from these differences. "]
    errors = [f"{measure.text(float(values.mean()))} for {measure.title}" for measure in shown[:1]
              if len(values := _column(setting.runs, f"{measure.column}/standard_error"))]  # fmt: skip
    if errors:
        pieces.append(f"Mean standard error of a run over documents, which all arms share: {', '.join(errors)}. ")
    if any("/cloze/" in measure.column for measure in shown):
        pieces.append(f"Guessing gives a cloze of {100 * measures.CHANCE:.0f} %.")
    return pieces


def paired_tests(setting: Setting, primary: Measure | None) -> list[Block]:
    """Return each pair of arms with its difference, p-values and verdict; only those with the best arm if there are many."""
    tested = pairs(setting, primary.column) if primary else []
    if primary is None or not tested:
        return []
    means = {arm: primary.better * setting.mean(arm, primary.column) for arm in setting.arms}
    best = max((arm for arm in means if means[arm] == means[arm]), key=lambda arm: means[arm])
    shown = tested if len(tested) <= _MOST_PAIRS else [pair for pair in tested if best in (pair.first, pair.second)]
    rows: list[Row] = []
    for pair in shown:
        better = pair.first if primary.better * pair.estimate.mean > 0 else pair.second
        verdict = Cell(f"{better} is better", better, "decided") if pair.decided else Cell(f"{WITHIN_NOISE} within noise", "")
        needed = "–" if pair.decided else "over 1,000" if pair.needed is None else f"about {pair.needed}"
        numbers = [Cell(_p(pair.p), pair.p), Cell(_p(pair.holm), pair.holm), Cell(needed, pair.needed)]
        rows.append([pair.first, pair.second, verdict, _difference(primary, pair.estimate), pair.estimate.pairs, *numbers])
    head = ["arm", "against", "verdict", f"{primary.title} [95 %]", "seeds", "p", "p, Holm", "seeds that would decide"]
    note = (
        "Differences within each seed, by Student's t over seeds with the variance over documents added. P-values are "
        f"adjusted for the looks; Holm's correction is for {len(tested)} {'pair' if len(tested) == 1 else 'pairs'}."
    )
    note += " Only pairs with the best arm are listed." if len(shown) < len(tested) else ""
    return [Heading(3, "Paired tests"), Table(head, rows, 3, "Paired tests"), Text(note)]


def beside_the_paper(setting: Setting, paper: Printed | None, primary: Measure | None) -> list[Block]:
    """The paper's numbers for the same arms."""
    if paper is None or not any(paper.rows):
        return []
    runs = setting.runs
    average = "benchmarks/average/table8" if "mmlu" in paper.columns else "benchmarks/average/ablations"
    counterparts = (
        _COUNTERPARTS | {benchmark.column: column_of(benchmark) for benchmark in LISTS["paper"]} | {"average": average}
    )
    also = {column: own for column, own in counterparts.items() if column in paper.columns and own in runs}
    rest = [column for column in paper.columns if column not in also]
    rows = []
    for arm, place, printed_row in zip(setting.arms, places_of(setting), paper.rows, strict=True):
        own = runs[runs["arm"] == arm]
        cells = [*_named(arm, place), *([_mean(own, primary)] if primary else [])]
        for column, ours in also.items():
            kind: measures.Kind = "share" if ours.startswith("benchmarks/") and column != "average" else "number"
            cells += [_mean(own, Measure(ours, "", kind)), _printed(printed_row, column)]
        rows.append([*cells, *(_printed(printed_row, column) for column in rest)])
    head = list(setting.evidence.axis) or ["arm"]
    head += [f"here: {primary.title}"] if primary else []
    head += [f"{whose}: {_words(column)}" for column in also for whose in ("here", "paper")]
    head += [f"paper: {_words(column)}" for column in rest]
    note = styled(
        f"The paper's numbers (`{paper.name}`) are single runs of its 1B models on its own text and tasks: the order of the "
        "arms can be compared, but not the values."
    )
    table = Table(head, rows, max(1, len(setting.evidence.axis)), "The paper's numbers")
    return [Heading(3, "Compared with the paper"), table, Text(note)]


def validation_and_cost(setting: Setting) -> list[Block]:
    """Return validation and cost of each arm, and the protocol of decoding speeds."""
    runs = setting.runs
    known = known_columns(setting)
    shown = [
        *measures.bits(known, "validation"),
        *measures.cloze(known, "test")[:-1],
        *(cost for cost in measures.COST if cost.column in runs),
        *measures.also(known),
    ]
    rows = [
        [*_named(arm, place), *(_mean(runs[runs["arm"] == arm], measure) for measure in shown)]
        for arm, place in zip(setting.arms, places_of(setting), strict=True)
    ]
    axis = list(setting.evidence.axis) or ["arm"]
    blocks: list[Block] = [Table([*axis, *(m.title for m in shown)], rows, len(axis), "Validation and cost")]
    if measures.DECODE.column in runs:
        keys = [key for key in runs if str(key).startswith("measure.decoding_speed.")]
        described = runs.dropna(subset=[measures.DECODE.column])[keys].drop_duplicates()
        lines = ["; ".join(f"{str(key).split('.')[-1]}={row[key]}" for key in keys) for row in described.to_dict("records")]
        blocks.append(Items([f"Decoding: {line}" for line in lines] or ["Decoding: random weights"]))
        blocks.append(Text("The paper: 510 tokens after a prompt of 2, batch 20, FP16, one V100."))
    return blocks


def runs_table(setting: Setting) -> list[Block]:
    """Cost of each run."""
    runs = setting.runs.sort_values(["arm", "seed"], kind="stable")
    head = ["run", "arm", "seed", "parameters", "tokens", "training FLOPs", "training s", "training tokens/s", "machine"]
    rows: list[Row] = []
    for row in runs.head(_MOST_RUNS).to_dict("records"):
        flops = as_float(row.get("flops_per_token.training")) * as_float(row.get("tokens"))
        machine = row.get("provenance.machine.accelerator") or row.get("provenance.machine.processor")
        shown = (measures.PARAMETERS, measures.TOKENS, measures.SECONDS, measures.SPEED)
        cells = [Cell(measure.text(value), value) for measure in shown for value in [as_float(row.get(measure.column))]]
        cells.insert(2, Cell("–" if math.isnan(flops) else f"{flops:.2e}".replace("e+", "e"), flops))
        named: Row = [Cell([code(str(row["identity"]))], str(row["identity"])), str(row["arm"]), int(row["seed"])]
        rows.append([*named, *cells, "–" if machine is None or machine != machine else str(machine)])
    blocks: list[Block] = [Table(head, rows, 2, "Runs")]
    if len(runs) > _MOST_RUNS:
        blocks.append(Text(f"The first {_MOST_RUNS} of {len(runs):,} runs; all are under Explore."))
    if setting.doubles:
        blocks.append(Text(f"Omitted, since another run of the same arm has the same seed: {', '.join(setting.doubles)}."))
    return blocks


def comma_separated(evidence: Evidence) -> str:
    """One row per arm and setting: seeds, and mean and standard deviation of every measure."""
    import pandas as pd

    parts = []
    for setting in settings(evidence):
        runs = setting.runs
        names = [name for name in runs if "/" in str(name) or str(name) in ("parameters.total", "tokens", "steps")]
        grouped = runs.groupby("arm", sort=False)
        places = runs.drop_duplicates("arm").set_index("arm")[[axis_column(key) for key in evidence.axis]]
        means = grouped[names].mean()
        spreads = grouped[names].std().rename(columns=lambda name: f"{name}, sd").dropna(axis="columns", how="all")
        table = pd.concat([places, grouped["seed"].nunique().rename("seeds"), means, spreads], axis="columns")
        table.insert(0, "setting", setting.label)
        parts.append(table.reset_index())
    return pd.concat(parts).to_csv(index=False, float_format="%.6g", lineterminator="\n") if parts else ""


def primary_measure(setting: Setting) -> Measure | None:
    """Return bits per byte of test text over all languages, or of validation text if unknown."""
    for split in ("test", "validation"):
        if found := measures.bits(known_columns(setting), split):
            return found[-1]
    return None


def known_columns(setting: Setting) -> list[str]:
    """Return the columns of the runs that have at least one value."""
    runs = setting.runs
    return [str(name) for name in runs if runs[name].notna().any()]


def places_of(setting: Setting) -> list[Mapping[str, str]]:
    """Values of each arm on the axes."""
    first = setting.runs.drop_duplicates("arm")
    return [{key: str(row[axis_column(key)]) for key in setting.evidence.axis} for row in first.to_dict("records")]


def varies(runs: pd.DataFrame, key: str) -> bool:
    """Return whether a column exists and has two or more values."""
    return key in runs and runs[key].nunique() > 1


def _column(runs: pd.DataFrame, name: str) -> pd.Series[float]:
    import pandas as pd

    return runs[name].dropna() if name in runs else pd.Series(dtype=float)


def _named(arm: str, place: Mapping[str, str]) -> list[Cell]:
    """Return the cells that name an arm: its values on the axes."""
    return [Cell(short(text), text if (value := measures.number(text)) is None else value) for text in place.values()] or [
        Cell(arm, arm)
    ]


def value_cell(result: Result, measure: Measure, seeds: int, marks: bool) -> Cell:
    """Return the cell of a mean with its deviation, its mark if ``marks``, and its seeds if they differ from ``seeds``."""
    if not result.values:
        return Cell("–")
    text = measure.text(result.mean)
    if len(result.values) > 1 and result.deviation > 0:
        text += f" ± {measure.text(result.deviation)}"
    if len(result.values) < seeds:
        text += f" (n = {len(result.values)})"
    if result.clear:
        return Cell(styled(f"**{text}**"), result.mean)
    return Cell([text, quiet(f" {WITHIN_NOISE}")] if marks and result.within_noise else text, result.mean)


def _gap(result: Result, measure: Measure) -> Cell:
    if result.best:
        return Cell("best", 0.0)
    return Cell("–") if result.difference is None else _difference(measure, result.difference)


def _difference(measure: Measure, own: Estimate) -> Cell:
    """A difference with its interval, if it has one."""
    low, high = own.interval()
    interval = "" if math.isinf(low) or math.isinf(high) else f" [{measure.signed(low)}, {measure.signed(high)}]"
    return Cell(measure.signed(own.mean) + interval, own.mean)


def _mean(own: pd.DataFrame, measure: Measure) -> Cell:
    if measure.column not in own or own[measure.column].isna().all():
        return Cell("–")
    values = own[measure.column].dropna()
    mean = float(values.mean())
    spread = float(values.std()) if measure.kind in ("bits", "share") and len(values) > 1 else 0.0
    return Cell(measure.text(mean) + (f" ± {measure.text(spread)}" if spread > 0 else ""), mean)


def _printed(row: Mapping[str, str] | None, column: str) -> Cell:
    text = (row or {}).get(column) or "–"
    return Cell(text, measures.number(text))


def _words(column: str) -> str:
    known = {"pehl_percent": "embedding + head %", "tokens_per_second_v100": "tokens/s"}
    return known.get(column, column.replace("_percent", " %").replace("_", " "))


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"
