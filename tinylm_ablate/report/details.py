"""Tables for specific experiments, by the name in ``experiment.figures``."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd

from tinylm_ablate.frames.long_tables import POINTS
from tinylm_ablate.frames.run_folders import Records
from tinylm_ablate.measure.benchmarks import column_of
from tinylm_ablate.measure.harness import LISTS
from tinylm_ablate.report import measures
from tinylm_ablate.report.blocks import Block, Cell, Heading, Row, Table, Text
from tinylm_ablate.report.measures import Measure, as_float
from tinylm_ablate.report.printed import Printed, rows_of
from tinylm_ablate.science.estimate import mean_and_deviation
from tinylm_ablate.science.evidence import Setting
from tinylm_ablate.science.pairs import pairs
from tinylm_ablate.science.rank import correlation as rank_correlation

#: Reference arm for convergence; without one of this name, the first arm is used.
_BASE = "base"


def ladder(setting: Setting, records: Records, primary: Measure | None, paper: Printed | None) -> list[Block]:  # noqa: ARG001
    """Gain of each step, compared with the paper's."""
    if primary is None:
        return []
    arms = list(dict.fromkeys(setting.runs["arm"]))
    tested = {(pair.first, pair.second): (1, pair.estimate) for pair in pairs(setting, primary.column)}
    tested |= {(second, first): (-1, estimate) for (first, second), (_, estimate) in tested.items()}
    averages = [as_float((row or {}).get("average")) for row in (paper.rows if paper else [None] * len(arms))]
    rows: list[Row] = []
    for step, (below, arm) in enumerate(itertools.pairwise(arms)):
        ours = Cell("–")
        if (below, arm) in tested:
            sign, estimate = tested[below, arm]
            sign *= -primary.better
            low, high = sorted(sign * end for end in estimate.interval())
            gained = sign * estimate.mean
            ours = Cell(f"{primary.signed(gained)} [{primary.signed(low)}, {primary.signed(high)}]", gained)
        gain = averages[step + 1] - averages[step]
        rows.append([f"{below} → {arm}", ours, Cell("–" if math.isnan(gain) else f"{gain:+.2f}".replace("-", "−"), gain)])
    head = ["step", f"here: gain in {primary.title} [95 %]", "paper: points of mean accuracy"]
    note = "Above zero is a gain. The paper's values are single runs without intervals."
    return [Heading(3, "What each step adds"), Table(head, rows, 1, "Steps of the ladder"), Text(note)]


def forgetting(setting: Setting, records: Records, primary: Measure | None, paper: Printed | None) -> list[Block]:  # noqa: ARG001
    """Loss of the final model on each part of the training data."""
    runs = setting.runs
    names = [str(name) for name in runs if str(name).startswith("forgetting/part_") and str(name).count("/") == 1]
    names.sort(key=lambda name: int(name.rpartition("_")[2]))
    if not names:
        return []
    names += ["forgetting/unseen"] if "forgetting/unseen" in runs else []
    rows: list[Row] = [
        [str(arm), *(_spread(own[name].dropna()) for name in names)] for arm, own in runs.groupby("arm", sort=False)
    ]
    head = ["arm", *(name.rpartition("/")[2].replace("_", " ") for name in names)]
    return [Table(head, rows, 1, "Loss of each part of the data, nats per token")]


def layer_skip(setting: Setting, records: Records, primary: Measure | None, paper: Printed | None) -> list[Block]:  # noqa: ARG001
    """Positions at which skipping layers costs the least and the most."""
    long = records.rows.get("layer_skip")
    if long is None:
        return []
    data = setting.runs[["identity", "arm"]].merge(long, on="identity")
    bits = Measure("bits", "bits/byte", "bits")
    rows: list[Row] = []
    for arm, own in data.groupby("arm", sort=False):
        means = own.groupby(["skipped", "first"])["bits_per_byte"].mean()
        if (0, 0) not in means:
            continue
        whole = float(means[0, 0])
        for skipped in sorted(set(own["skipped"]) - {0}):
            cost = means[skipped] - whole
            least, most = int(cost.idxmin()), int(cost.idxmax())
            added = [Cell(bits.signed(value), value) for value in (float(cost.min()), float(cost.max()))]
            rows.append([str(arm), int(skipped), least, added[0], most, added[1]])
    head = ["arm", "layers skipped", "cheapest from", "adds bits/byte", "dearest from", "adds bits/byte"]
    note = "Layers count from 0. Validation text and cloze questions are the same for all positions."
    return [Table(head, rows, 1, "Layers skipped at inference"), Text(note)] if rows else []


def convergence(setting: Setting, records: Records, primary: Measure | None, paper: Printed | None) -> list[Block]:  # noqa: ARG001
    """Losses at the start and the end, and the tokens that an arm needs to reach the final loss of the base (Figure 6)."""
    runs, long = setting.runs, records.rows.get("curves")
    if long is None:
        return []
    curves = {str(name): own.sort_values("tokens") for name, own in long.groupby("identity")}
    arms = list(dict.fromkeys(runs["arm"]))
    base = next((arm for arm in arms if _BASE in str(arm).split(", ")), arms[0])
    goals = {
        row["seed"]: float(curves[row["identity"]]["loss"].iloc[-1])
        for row in runs[runs["arm"] == base].to_dict("records")
        if row["identity"] in curves
    }
    rows: list[Row] = []
    for arm in arms if goals else []:
        own = [row for row in runs[runs["arm"] == arm].to_dict("records") if row["identity"] in curves]
        found = [curves[row["identity"]] for row in own]
        reached = [
            (tokens_to(curve, goals[row["seed"]]), curve["tokens"].iloc[-1])
            for row, curve in zip(own, found, strict=True)
            if row["seed"] in goals
        ]
        known = [(tokens, whole) for tokens, whole in reached if tokens is not None]
        cell = _spread([tokens for tokens, _ in known], measures.count) if known else Cell("not reached")
        if known and len(known) < len(reached):
            cell = Cell(f"{cell.content}, {len(reached) - len(known)} of {len(reached)} seeds did not reach it", cell.value)
        ends = [_spread([float(curve["loss"].iloc[place]) for curve in found]) for place in (0, -1)]
        rows.append([str(arm), *ends, cell, _spread([100 * tokens / whole for tokens, whole in known], "{:.1f}".format)])
    if not rows:
        return []
    head = ["arm", "loss at the start", "loss at the end", f"tokens to the final loss of {base}", "% of its tokens"]
    note = (
        f"Training losses in nats per token, each the mean over a {POINTS}th of the training. The tokens are those after which "
        f"a run first reaches the final loss of {base} with the same seed, that is, the same text in the same order."
    )
    return [Heading(3, "Convergence"), Table(head, rows, 1, "Convergence"), Text(note)]


def tokens_to(curve: pd.DataFrame, loss: float) -> float | None:
    """Return the tokens at which a curve first reaches ``loss``, interpolated linearly; None if it never does."""
    tokens, losses = curve["tokens"].to_numpy(float), curve["loss"].to_numpy(float)
    below = np.flatnonzero(losses <= loss)
    if not len(below):
        return None
    first = int(below[0])
    if first == 0:
        return float(tokens[0])
    share = (losses[first - 1] - loss) / (losses[first - 1] - losses[first])
    return float(tokens[first - 1] + share * (tokens[first] - tokens[first - 1]))


def correlation(
    setting: Setting,
    records: Records,  # noqa: ARG001
    primary: Measure | None,
    paper: Printed | None,  # noqa: ARG001
    columns: Sequence[str] = (),
    table: str = "",
) -> list[Block]:
    """Spearman's rank correlation of each column with quality over the arms, compared with the paper's (Figure 4)."""
    runs = setting.runs
    if primary is None:
        return []
    quality = pd.Series({arm: setting.mean(arm, primary.column) for arm in setting.arms})
    printed = {row["factor"]: row["spearman"] for row in rows_of(table) if {"factor", "spearman"} <= row.keys()}
    rows: list[Row] = []
    for column in (name for name in columns if name in runs):
        values = runs.assign(x=pd.to_numeric(runs[column], errors="coerce")).groupby("arm")["x"].mean()
        both = pd.DataFrame({"x": values, "quality": primary.better * quality}).dropna()
        found = rank_correlation(list(both["x"]), list(both["quality"]))
        low, high = found.interval()
        text = (
            "–" if math.isnan(found.rho) else f"{found.rho:+.3f}" + ("" if math.isinf(low) else f" [{low:+.2f}, {high:+.2f}]")
        )
        factor = "parameters" if column == measures.PARAMETERS.column else column.split(".")[-1]
        theirs = Cell(printed[factor].replace("-", "−") if factor in printed else "–", as_float(printed.get(factor)))
        rows.append([factor.replace("_", " "), Cell(text.replace("-", "−"), found.rho), found.arms, theirs])
    head = ["factor", "rank correlation with quality [95 %]", "arms", "paper"]
    note = (
        f"Spearman's correlation over arms, each the mean of its seeds. Quality is {primary.title}"
        f"{' with the sign reversed' if primary.better < 0 else ''}; for the paper, its mean accuracy over three tasks."
    )
    return [Heading(3, "Rank correlation with quality"), Table(head, rows, 1, "Rank correlations"), Text(note)] if rows else []


def models(setting: Setting, records: Records, primary: Measure | None, paper: Printed | None) -> list[Block]:  # noqa: ARG001
    """The ten benchmarks of Table 8: our arms, other measured models, and the paper's rows."""
    columns = [*(column_of(benchmark) for benchmark in LISTS["table8"]), "benchmarks/average/table8"]
    share: measures.Kind = "share"
    kinds: list[measures.Kind] = [*(share for _ in LISTS["table8"]), "percent"]
    rows: list[Row] = []
    others = records.rows.get("models", pd.DataFrame())
    for arm, own in setting.runs.groupby("arm", sort=False):
        rows.append([str(arm), "trained here", *_scores(own, columns, kinds)])
    for name, own in others.groupby("name", sort=True) if len(others) else ():
        rows.append([str(name), "measured here", *_scores(own, columns, kinds)])
    for row in rows_of("table08_benchmarks"):
        texts = [row.get(column) or "–" for column in (*(benchmark.column for benchmark in LISTS["table8"]), "average")]
        rows.append([row["model"], "printed", *(Cell(text, measures.number(text)) for text in texts)])
    head = ["model", "source", *(benchmark.name for benchmark in LISTS["table8"]), "average"]
    note = (
        "In percent. The paper used OpenCompass with other prompts: the order of its printed rows can be compared with ours, "
        "but not their values. Guessing gives about 25 with four answers and 50 with two. The last column is the mean of the "
        "ten, if all were measured."
    )
    return [Heading(3, "Compared with other models"), Table(head, rows, 2, "Ten benchmarks"), Text(note)]


def _scores(own: pd.DataFrame, columns: Sequence[str], kinds: Sequence[measures.Kind]) -> list[Cell]:
    """Means over the rows that have a value."""
    return [
        _spread(own[column].dropna() if column in own else [], Measure(column, "", kind).text)
        for column, kind in zip(columns, kinds, strict=True)
    ]


#: Name in ``experiment.figures`` -> table.
DETAILS: dict[str, Callable[..., list[Block]]] = {
    own.__name__: own for own in (ladder, forgetting, layer_skip, convergence, correlation, models)
}


def _spread(values: Iterable[float], text: Callable[[float], str] = "{:.4f}".format) -> Cell:
    mean, deviation = mean_and_deviation(list(values))
    if math.isnan(mean):
        return Cell("–")
    return Cell(text(mean) + (f" ± {text(deviation)}" if deviation > 0 else ""), mean)
