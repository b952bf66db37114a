"""Compact data for the page's explorer: the columns in which runs differ, and their curves."""

from __future__ import annotations

import base64
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from tinylm_ablate.frames.arms import setting_keys
from tinylm_ablate.frames.run_folders import Records
from tinylm_ablate.report import measures
from tinylm_ablate.report.measures import by_name
from tinylm_ablate.report.search_figures import importances

#: Maximum number of columns, of distinct words per column, and of runs with curves.
_MOST_COLUMNS, _MOST_WORDS, _MOST_CURVES = 48, 400, 10_000

#: Points per curve if there are more runs than this, so that the page stays small.
_MANY, _FEW_POINTS = 1000, 24

#: Columns to offer first, if known.
_COSTS = ("parameters.total", "training FLOPs", "train/seconds", "tokens")


def payload(records: Records) -> dict[str, Any] | None:
    """Return columns, curves and importances as plain data; None without runs."""
    runs = _with_experiments(records)
    if runs.empty:
        return None
    if {"flops_per_token.training", "tokens"} <= set(runs):
        runs = runs.assign(**{"training FLOPs": runs["flops_per_token.training"] * runs["tokens"]})
    settings = setting_columns(runs, {key for grid in records.grids for key in grid.axis})
    found = [str(name) for name in runs]
    quality = [measure.column for split in ("test", "validation") for measure in reversed(measures.bits(found, split))]
    quality += [measure.column for measure in reversed(measures.cloze(found, "test"))]
    costs = [name for name in (*_COSTS, *(cost.column for cost in measures.COST)) if name in runs]
    names = list(dict.fromkeys(["identity", "experiment", "arm", "seed", *quality, *costs, *settings]))
    names = [name for name in names if name in runs][:_MOST_COLUMNS]
    columns = [_packed(name, runs[name]) for name in names]
    explained = _importance(runs, settings, quality)
    left_out = sorted(set(settings) - set(names))
    # The most important settings are first among the parallel coordinates.
    settings = list(dict.fromkeys([*(str(entry["setting"]) for entry in explained), *settings]))
    return {
        "count": len(runs),
        "columns": columns,
        "measures": quality,
        "costs": costs,
        "settings": [name for name in settings if name in names],
        "table": [name for name in ("experiment", "arm", "seed", *quality[:2], *costs[:2], "identity") if name in names],
        "better": {name: by_name(name, 0).better or (1 if "cloze" in name or "per_second" in name else -1) for name in names},
        "importance": explained,
        "importanceMeasure": by_name(quality[0], 0).title if quality else "",
        "curves": _curves(runs, records.rows.get("curves")),
        "leftOut": f"{len(left_out)} more settings vary and are in the CSV only" if left_out else "",
    }


def setting_columns(runs: pd.DataFrame, axes: Collection[str] = ()) -> list[str]:
    """Return settings of the config that vary between runs: first those that grids vary, then those with the fewest values.

    Of settings that split the runs in the same way, such as all values that follow the scale, only the first is kept.
    """
    codes = {name: pd.factorize(runs[name])[0] for name in setting_keys(runs)}
    varying = {name: int(found.max()) for name, found in codes.items() if found.max() > found.min()}

    def rank(name: str) -> tuple[bool, bool, int, str]:
        group = name.removesuffix(".name").removesuffix(".method")
        return name != "scale.name", name not in axes and group not in axes, varying[name], name

    alike: dict[bytes, str] = {}
    for name in sorted(varying, key=rank):
        alike.setdefault(codes[name].tobytes(), name)
    return list(alike.values())


def _with_experiments(records: Records) -> pd.DataFrame:
    """Add the (first) experiment and arm of each run; "tuning" for tuning runs."""
    places: dict[str, tuple[str, str]] = {}
    for grid in records.grids:
        for cell in grid.cells:
            places.setdefault(cell.identity, (grid.name, cell.arm))
    for grid in records.grids:
        for tuned in grid.tuning:
            for point in tuned["curve"]:
                places.setdefault(point["identity"], (grid.name, f"tuning {tuned['arm']} × {point['factor']:g}"))
    found = [places.get(identity, ("–", "–")) for identity in records.runs["identity"]]
    experiments, arms = zip(*found, strict=True) if found else ((), ())
    return records.runs.assign(experiment=list(experiments), arm=list(arms)).reset_index(drop=True)


def _packed(name: str, values: pd.Series[Any]) -> dict[str, Any]:
    """Return a column as numbers with six digits, or as words and codes."""
    title = by_name(name, 0).title
    if name != "identity" and pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = [float(f"{value:.6g}") if math.isfinite(value) else None for value in values.astype(float)]
        whole = [int(value) if value is not None and value.is_integer() else value for value in numbers]
        digits = {"digits": 4} if by_name(name, 0).kind == "bits" else {}
        return {"name": name, "title": title, "kind": "number", "values": whole} | digits
    codes, words = pd.factorize(values.astype("str"), sort=True)
    texts = [str(word) for word in words]
    if name != "identity" and len(texts) > _MOST_WORDS:
        texts = [text[:40] for text in texts]
    return {"name": name, "title": title, "kind": "word", "codes": codes.tolist(), "words": texts}


def _importance(runs: pd.DataFrame, settings: Sequence[str], quality: Sequence[str]) -> list[dict[str, Any]]:
    if not quality:
        return []
    found = importances(runs, settings[:12], quality[0])
    return [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]


def _curves(runs: pd.DataFrame, curves: pd.DataFrame | None) -> Mapping[str, Any] | None:
    """Return all curves as 32-bit floats (alternating tokens and loss), and the start of each run's curve."""
    if curves is None or curves.empty or len(runs) > _MOST_CURVES:
        return None
    rank = curves["identity"].map({name: number for number, name in enumerate(runs["identity"])})
    kept = curves.assign(rank=rank).dropna(subset=["rank"]).sort_values(["rank", "tokens"], kind="stable")
    if len(runs) > _MANY:
        within = kept.groupby("rank").cumcount()
        total = kept.groupby("rank")["tokens"].transform("size")
        step = np.ceil(total / _FEW_POINTS)
        kept = kept[(within % step == 0) | (within == total - 1)]
    starts = np.searchsorted(kept["rank"].to_numpy(), np.arange(len(runs) + 1))
    points = kept[["tokens", "loss"]].to_numpy("<f4")
    return {"starts": starts.tolist(), "base64": base64.b64encode(points.tobytes()).decode()}
