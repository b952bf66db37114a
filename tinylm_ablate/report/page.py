"""The page of one experiment, as a list of blocks: figure, verdicts, table, the paper beside it, tests, and how it was run."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinylm_ablate.files import fingerprint
from tinylm_ablate.report import measures
from tinylm_ablate.report.arms import axis_column, short
from tinylm_ablate.report.blocks import (
    Block,
    Cell,
    Code,
    Figure,
    Fold,
    Heading,
    Inline,
    Items,
    Piece,
    Table,
    Text,
    code,
    quiet,
    strong,
    word,
)
from tinylm_ablate.report.details import DETAILS
from tinylm_ablate.report.figures import FIGURES, specification
from tinylm_ablate.report.measures import Measure
from tinylm_ablate.report.printed import Printed, printed
from tinylm_ablate.report.records import Grid, Records
from tinylm_ablate.report.verdicts import about
from tinylm_ablate.science.evidence import Evidence, Setting, settings
from tinylm_ablate.science.pairs import Result, pairs, results
from tinylm_ablate.science.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

#: Set behind a value that cannot be told from the best of its column.
WITHIN_NOISE = "≈"

#: Arms that are shown and tested at most, and pairs that are listed before only those with the best arm are.
_MOST_ARMS, _MOST_PAIRS, _MOST_RUNS = 40, 15, 300

#: What follows from the axes and is shown where it differs between arms.
_FOLLOWS = {
    "shape.depth": "depth", "shape.width": "width", "shape.ffn_width": "FFN", "shape.heads": "heads",
    "shape.kv_heads": "KV heads", "shape.vocab_size": "vocabulary", "embedding_head_share": "embedding + head %",
}  # fmt: skip

#: What the paper prints beside quality -> the same of our runs.
_COUNTERPARTS = {
    "pehl_percent": "embedding_head_share", "accumulated_frequency_percent": "vocabulary.accumulated_frequency_percent",
    "width": "shape.width", "heads": "shape.heads", "tokens_per_second_v100": measures.DECODE.column,
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        stem: Stem of its files, unique whatever the experiment is called.
        title: Its heading.
        blocks: What stands on it.
        arms, seeds, runs: How many it shows.
    """

    stem: str
    title: str
    blocks: Sequence[Block]
    arms: int = 0
    seeds: int = 0
    runs: int = 0


def stem_of(name: str) -> str:
    """A file's stem for a name that a user may choose freely: names that differ have stems that differ, in any case.

    A name that is a plain lower-case stem is kept; any other gets a fingerprint behind what can be kept of it.
    """
    if re.fullmatch(r"[a-z0-9][a-z0-9_+-]{0,63}", name) and name not in {"readme", "claims", "index", "figures", "reference"}:
        return name
    return f"{re.sub(r'[^a-z0-9_+-]+', '-', name.lower()).strip('-')[:48] or 'page'}-{fingerprint(name)[:8]}"


def experiment_page(
    grids: Sequence[Grid], evidence: Evidence, records: Records, verdicts: Sequence[Verdict], reference: Evidence | None = None
) -> Page:
    """The page of the grids of one name.

    Args:
        grids: Those grids.
        evidence: Their finished runs.
        records: Where their long frames are; problems are added to it.
        verdicts: Those on claims about this experiment.
        reference: The same experiment in the reference, shown beside a user's own.
    """
    found = settings(evidence)
    newest = max(grids, key=lambda grid: (grid.created, grid.identity))
    stem = stem_of(newest.name)
    blocks: list[Block] = [Heading(1, newest.title)]
    blocks += [Text(newest.note)] if newest.note else []
    for number, setting in enumerate(found):
        about_it = [block for verdict in verdicts if verdict.setting == setting.label for block in about(verdict)]
        blocks += [
            Heading(2, setting.label),
            *_setting(setting, grids, records, about_it, f"{stem}_{number}" if number else stem),
        ]
    if reference is not None:
        blocks += _reference(reference)
    blocks += _tuning(grids)
    commands = list(dict.fromkeys(shlex.join(grid.command) for grid in grids if grid.command))
    blocks += [Fold("How it was run", [Code(command) for command in commands])] if commands else []
    arms = [setting.runs for setting in found]
    return Page(
        stem,
        newest.title,
        blocks,
        sum(runs["arm"].nunique() for runs in arms),
        max((int(runs.groupby("arm")["seed"].nunique().max()) for runs in arms), default=0),
        sum(len(runs) for runs in arms),
    )


def _setting(setting: Setting, grids: Sequence[Grid], records: Records, verdicts: Sequence[Block], stem: str) -> list[Block]:
    """Everything about one group of comparable runs."""
    primary = _primary(setting)
    all_arms = setting.runs["arm"].nunique()
    setting = _best_arms(setting, primary)
    grid = next((grid for grid in grids if grid.identity in set(setting.runs["grid"])), grids[-1])
    paper = printed(grids, _places(setting), records.problems)
    blocks = [*_figures(setting, grid, records, primary, paper, stem), *verdicts]
    if all_arms > _MOST_ARMS:
        blocks.append(
            Text(f"The best {_MOST_ARMS} of {all_arms:,} arms are shown; all of them are in the CSV and under Explore.")
        )
    blocks += _table(setting, primary)
    for name in grid.figures:
        if name in DETAILS:
            blocks += DETAILS[name](setting, records, primary, paper)
    if grid.correlate:
        blocks += DETAILS["correlation"](setting, records, primary, paper, grid.correlate, grid.paper or "")
    blocks += _beside(setting, paper, primary)
    blocks += _tests(setting, primary)
    blocks.append(Fold("Validation and cost", _cost(setting)))
    blocks.append(Fold("Runs", _runs(setting)))
    return blocks


def _figures(
    setting: Setting, grid: Grid, records: Records, primary: Measure | None, paper: Printed | None, stem: str
) -> list[Block]:
    """The experiment's own figures, the arms and the loss curves, as far as there are any."""
    blocks: list[Block] = []
    runs = setting.runs
    measure = primary.column if primary else ""
    wanted = [*(name for name in grid.figures if name in FIGURES), *(["correlation"] if grid.correlate else [])]
    for name in dict.fromkeys([*(["ladder"] if "ladder" in wanted else ["arms"]), *wanted, "loss"]):
        kind = FIGURES[name]
        data = runs.assign(paper=_averages(setting, paper)) if name == "ladder" else runs
        by: Sequence[str] = setting.evidence.axis
        if kind.rows != "runs":
            if (long := records.rows.get(kind.rows)) is None:
                continue
            own = [column for column in long if column == "identity" or column not in runs]
            data = runs[["identity", "arm", "seed"]].merge(long[own if kind.rows != "curves" else list(long)], on="identity")
        if name == "correlation":
            by = grid.correlate
        elif name == "batch_lr":
            data = _numbers(data, by)
        chart = kind.draw(data, by, "loss" if name == "loss" else measure)
        if chart is not None:
            blocks.append(Figure(f"{stem}_{name}", specification(chart), kind.title, f"{kind.alt}."))
    if any(isinstance(block, Figure) and block.name.endswith("_loss") for block in blocks) and _varies(
        runs, "shape.vocab_size"
    ):
        blocks.append(
            Text("The vocabularies differ, so losses in nats per token do not compare between arms; bits per byte do.")
        )
    return blocks


def _tuning(grids: Sequence[Grid]) -> list[Block]:
    """How the tuned settings of each arm were chosen."""
    import pandas as pd

    entries = [entry for grid in grids for entry in grid.tuning]
    points = [{"arm": entry["arm"], "key": entry["key"], **point} for entry in entries for point in entry["curve"]]
    if not points:
        return []
    rows = [
        [
            word(entry["arm"]),
            word(entry["key"]),
            Cell("–" if entry["best"] is None else f"{entry['best']:g}", entry["best"]),
            word(
                {"interior": "interior", "edge": "at an edge: not testable", "open": "not finished"}.get(
                    entry["state"], entry["state"]
                )
            ),
            Cell(str(len(entry["curve"])), float(len(entry["curve"]))),
        ]
        for entry in entries
    ]
    blocks: list[Block] = [Table(["arm", "setting", "best factor", "optimum", "tried"], rows, 2, "Tuned settings")]
    chart = FIGURES["tuning"].draw(pd.DataFrame(points).dropna(), ["factor"], "loss")
    if chart is not None:
        kind = FIGURES["tuning"]
        figure = Figure(f"{stem_of(grids[0].name)}_tuning", specification(chart), kind.title, f"{kind.alt}.")
        blocks.insert(0, figure)
    return [Fold("How the arms were tuned", blocks)]


def _table(setting: Setting, primary: Measure | None) -> list[Block]:
    """The table of the arms: the measure first, then its difference to the best, then everything else."""
    runs, axis = setting.runs, setting.evidence.axis
    quality = [*measures.bits(_known(setting), "test"), *measures.cloze(_known(setting), "test")[-1:]]
    shown = [*([primary] if primary else []), *(measure for measure in quality if measure != primary)]
    # Only these are tested; the languages beside them are shown as means.
    tested = [measure for measure in shown if measure == primary or "/cloze/" in measure.column]
    found = {measure.column: results(setting, measure.column, measure.better) for measure in tested}
    own_axes = {key.split(".")[-1] for key in axis}
    follows = [key for key in _FOLLOWS if _varies(runs, key) and key.split(".")[-1] not in own_axes]
    marks = int(runs.groupby("arm")["seed"].nunique().max()) > 1
    head = [*axis, *(measure.title for measure in shown[:1])]
    head += ["to the best [95 %]"] if marks and shown else []
    head += [*(measure.title for measure in shown[1:]), "seeds", "parameters", "tokens", *(_FOLLOWS[key] for key in follows)]
    rows = []
    for index, (arm, place) in enumerate(zip(setting.arms, _places(setting), strict=True)):
        own = runs[runs["arm"] == arm]
        seeds = own["seed"].nunique()
        cells = [_place(text) for text in place.values()] or [word(arm)]
        for number, measure in enumerate(shown):
            if measure.column not in found:
                cells.append(_mean(own, measure))
                continue
            result = found[measure.column][index]
            cells.append(value_cell(result, measure, seeds, marks))
            if number == 0 and marks:
                cells.append(_gap(result, measure))
        cells.append(Cell(str(seeds), float(seeds)))
        cells += [_mean(own, measure) for measure in (measures.PARAMETERS, measures.TOKENS)]
        cells += [_mean(own, Measure(key, "", "number")) for key in follows]
        rows.append(cells)
    if not axis:
        head.insert(0, "arm")
    blocks: list[Block] = [Table(head, rows, max(1, len(axis)), "Results of each arm")]
    return [*blocks, Text(_reading(setting, marks, shown))]


def _reading(setting: Setting, marks: bool, shown: Sequence[Measure]) -> Inline:
    """What may be concluded from the table, in two sentences."""
    pieces: list[Piece] = []
    if setting.runs["arm"].nunique() > 1:
        if marks:
            pieces += ["Mean ± standard deviation over seeds. ", strong("Bold"), ": every other arm is worse beyond noise. "]
            pieces += [
                f"{WITHIN_NOISE}: cannot be told from the best of its column (paired test, Holm's correction for all pairs). "
            ]
        else:
            pieces += ["One seed: nothing can be concluded from these differences. "]
    errors = [f"{measure.text(float(values.mean()))} for {measure.title}" for measure in shown[:1]
              if len(values := _column(setting.runs, f"{measure.column}/standard_error"))]  # fmt: skip
    if errors:
        pieces.append(f"Mean standard error of one run over documents, which all arms share: {', '.join(errors)}. ")
    if any("/cloze/" in measure.column for measure in shown):
        pieces.append(f"Guessing gives a cloze of {100 * measures.CHANCE:.0f} %.")
    return pieces


def _tests(setting: Setting, primary: Measure | None) -> list[Block]:
    """Each pair of arms with its difference, p-values and verdict; only those with the best arm where there are many."""
    tested = pairs(setting, primary.column) if primary else []
    if primary is None or not tested:
        return []
    means = {arm: primary.better * setting.mean(arm, primary.column) for arm in setting.arms}
    best = max((arm for arm in means if means[arm] == means[arm]), key=lambda arm: means[arm])
    shown = tested if len(tested) <= _MOST_PAIRS else [pair for pair in tested if best in (pair.first, pair.second)]
    rows = []
    for pair in shown:
        low, high = pair.estimate.interval()
        better = pair.first if primary.better * pair.estimate.mean > 0 else pair.second
        verdict = Cell(f"{better} is better", better, "decided") if pair.decided else Cell(f"{WITHIN_NOISE} within noise", "")
        rows.append(
            [
                word(pair.first),
                word(pair.second),
                verdict,
                Cell(_interval(primary, pair.estimate.mean, low, high), pair.estimate.mean),
                Cell(str(pair.estimate.pairs), float(pair.estimate.pairs)),
                Cell(_p(pair.p), pair.p),
                Cell(_p(pair.holm), pair.holm),
                Cell("–" if pair.decided else "over 1,000" if pair.needed is None else f"about {pair.needed}", pair.needed),
            ]
        )
    head = ["arm", "against", "verdict", f"{primary.title} [95 %]", "seeds", "p", "p, Holm", "seeds that would decide"]
    told = (
        "Arm minus arm within each seed, by Student's t over seeds with the variance over documents added; p-values are "
        f"adjusted for the looks, and Holm's correction is for all {len(tested)} pairs."
    )
    told += " Listed are those with the best arm." if len(shown) < len(tested) else ""
    return [Heading(3, "Paired tests"), Table(head, rows, 3, "Paired tests"), Text(told)]


def _beside(setting: Setting, paper: Printed | None, primary: Measure | None) -> list[Block]:
    """The paper's numbers for the same arms."""
    if paper is None or not any(paper.rows):
        return []
    runs = setting.runs
    also = {column: own for column, own in _COUNTERPARTS.items() if column in paper.columns and own in runs}
    rest = [column for column in paper.columns if column not in also]
    rows = []
    for arm, place, printed_row in zip(setting.arms, _places(setting), paper.rows, strict=True):
        own = runs[runs["arm"] == arm]
        cells = [_place(text) for text in place.values()] or [word(arm)]
        cells += [_mean(own, primary)] if primary else []
        for column, ours in also.items():
            cells += [_mean(own, Measure(ours, "", "number")), _printed(printed_row, column)]
        rows.append([*cells, *(_printed(printed_row, column) for column in rest)])
    head = list(setting.evidence.axis) or ["arm"]
    head += [f"here: {primary.title}"] if primary else []
    head += [f"{whose}: {_words(column)}" for column in also for whose in ("here", "paper")]
    head += [f"paper: {_words(column)}" for column in rest]
    told: Inline = [
        "The paper's numbers are ",
        code(paper.name),
        ", single runs of its 1B models on its own text and tasks: the order of the arms can be compared, the values cannot.",
    ]
    return [
        Heading(3, "Beside the paper"),
        Table(head, rows, max(1, len(setting.evidence.axis)), "The paper's numbers"),
        Text(told),
    ]


def _reference(reference: Evidence) -> list[Block]:
    """The reference's results for the same experiment, at its largest setting."""
    found = settings(reference)
    if not found:
        return []
    setting = _best_arms(found[0], _primary(found[0]))
    blocks = [block for block in _table(setting, _primary(setting)) if isinstance(block, Table)]
    return [Fold(f"The same experiment in the reference: {setting.label}", blocks)]


def _cost(setting: Setting) -> list[Block]:
    """Validation and cost of each arm, and how decoding was measured."""
    runs = setting.runs
    known = _known(setting)
    shown = [
        *measures.bits(known, "validation"),
        *measures.cloze(known, "test")[:-1],
        *(cost for cost in measures.COST if cost.column in runs),
    ]
    rows = [
        [*([_place(text) for text in place.values()] or [word(arm)]), *(_mean(runs[runs["arm"] == arm], m) for m in shown)]
        for arm, place in zip(setting.arms, _places(setting), strict=True)
    ]
    axis = list(setting.evidence.axis) or ["arm"]
    blocks: list[Block] = [Table([*axis, *(m.title for m in shown)], rows, len(axis), "Validation and cost")]
    if measures.DECODE.column in runs:
        keys = [key for key in runs if str(key).startswith("measure.decoding_speed.")]
        described = runs.dropna(subset=[measures.DECODE.column])[keys].drop_duplicates()
        lines = ["; ".join(f"{str(key).split('.')[-1]}={row[key]}" for key in keys) for row in described.to_dict("records")]
        blocks.append(Items([f"Decoding: {line}" for line in lines] or ["Decoding: random weights"]))
        blocks.append(Text("The paper: 510 new tokens after 2, batch 20, FP16, one V100."))
    return blocks


def _runs(setting: Setting) -> list[Block]:
    """What each run cost."""
    runs = setting.runs.sort_values(["arm", "seed"], kind="stable")
    head = ["run", "arm", "seed", "parameters", "tokens", "training FLOPs", "training s", "training tokens/s", "machine"]
    rows = []
    for row in runs.head(_MOST_RUNS).to_dict("records"):
        flops = _float(row.get("flops_per_token.training")) * _float(row.get("tokens"))
        machine = row.get("provenance.machine.accelerator") or row.get("provenance.machine.processor")
        rows.append(
            [
                Cell([code(str(row["identity"]))], str(row["identity"])),
                word(str(row["arm"])),
                Cell(str(row["seed"]), float(row["seed"])),
                *(
                    Cell(measure.text(_float(row.get(measure.column))), _float(row.get(measure.column)))
                    for measure in (measures.PARAMETERS, measures.TOKENS)
                ),
                Cell("–" if math.isnan(flops) else f"{flops:.2e}".replace("e+", "e"), flops),
                *(
                    Cell(measure.text(_float(row.get(measure.column))), _float(row.get(measure.column)))
                    for measure in (measures.SECONDS, measures.SPEED)
                ),
                word("–" if machine is None or machine != machine else str(machine)),
            ]
        )
    blocks: list[Block] = [Table(head, rows, 2, "Runs")]
    if len(runs) > _MOST_RUNS:
        blocks.append(Text(f"The first {_MOST_RUNS} of {len(runs):,} runs; all are under Explore."))
    if setting.doubles:
        blocks.append(Text(f"Left out, since another run of the same arm has the same seed: {', '.join(setting.doubles)}."))
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


def _best_arms(setting: Setting, primary: Measure | None) -> Setting:
    """The setting with as many arms as a page can show."""
    runs = setting.runs
    if runs["arm"].nunique() <= _MOST_ARMS or primary is None:
        return setting
    best = (primary.better * runs.groupby("arm")[primary.column].mean()).nlargest(_MOST_ARMS).index
    return dataclasses.replace(setting, runs=runs[runs["arm"].isin(best)])


def _primary(setting: Setting) -> Measure | None:
    """Bits per byte of test text over all languages, or of validation text where no other is known."""
    for split in ("test", "validation"):
        if found := measures.bits(_known(setting), split):
            return found[-1]
    return None


def _known(setting: Setting) -> list[str]:
    runs = setting.runs
    return [str(name) for name in runs if runs[name].notna().any()]


def _places(setting: Setting) -> list[Mapping[str, str]]:
    """Where each arm stands on the axes."""
    first = setting.runs.drop_duplicates("arm")
    return [{key: str(row[axis_column(key)]) for key in setting.evidence.axis} for row in first.to_dict("records")]


def _averages(setting: Setting, paper: Printed | None) -> list[float]:
    """The paper's mean accuracy for the arm of each run; NaN where it prints none."""
    rows = paper.rows if paper is not None else [None] * len(setting.arms)
    known = {arm: _float((row or {}).get("average")) for arm, row in zip(setting.arms, rows, strict=True)}
    return [known[arm] for arm in setting.runs["arm"]]


def _numbers(data: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Axes as numbers where all of their words are."""
    found = {key: data[key].map(measures.number) for key in keys if key in data}
    return data.assign(**{key: values for key, values in found.items() if values.notna().all()})


def _varies(runs: pd.DataFrame, key: str) -> bool:
    return key in runs and runs[key].nunique() > 1


def _column(runs: pd.DataFrame, name: str) -> pd.Series[float]:
    import pandas as pd

    return runs[name].dropna() if name in runs else pd.Series(dtype=float)


def _place(text: str) -> Cell:
    value = measures.number(text)
    return Cell(short(text), text if value is None else value)


def value_cell(result: Result, measure: Measure, seeds: int, marks: bool) -> Cell:
    if not result.values:
        return Cell("–")
    text = measure.text(result.mean)
    if len(result.values) > 1 and result.deviation > 0:
        text += f" ± {measure.text(result.deviation)}"
    if len(result.values) < seeds:
        text += f" (n = {len(result.values)})"
    if result.clear:
        return Cell([strong(text)], result.mean)
    return Cell([text, quiet(f" {WITHIN_NOISE}")] if marks and result.within_noise else text, result.mean)


def _gap(result: Result, measure: Measure) -> Cell:
    if result.best:
        return Cell("best", 0.0)
    if result.difference is None:
        return Cell("–")
    low, high = result.difference.interval()
    return Cell(_interval(measure, result.difference.mean, low, high), result.difference.mean)


def _interval(measure: Measure, mean: float, low: float, high: float) -> str:
    if math.isinf(low) or math.isinf(high):
        return measure.signed(mean)
    return f"{measure.signed(mean)} [{measure.signed(low)}, {measure.signed(high)}]"


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


def _float(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan
