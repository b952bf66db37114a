"""Figures as functions of a data frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tinylm_ablate.report import figures, search_figures
from tinylm_ablate.report.details import DETAILS
from tinylm_ablate.report.drawing import on_white, png, specification, svg
from tinylm_ablate.report.figures import FIGURES
from tinylm_ablate.report.search_figures import importances

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
BITS = "test/bits_per_byte/all"


def frame():
    """Two arms with three seeds each, and all values that figures may show."""
    same = {
        "forgetting/part_1": 3.0, "forgetting/part_2": 2.9, "forgetting/unseen": 3.1, "first": 0, "cloze": 0.3,
        "matrix": "q", "initial": 0.02, "trained": 0.03, "verdict": "reproduced", "effect": 2.0, "low": 1.5, "high": 2.5,
        "reason": "", "source": "Table 2", "setting": "s32", "why": "it holds",
    }  # fmt: skip
    rows = [
        same
        | {
            "identity": f"{depth}{seed}", "arm": f"{depth} layers", "claim": f"claim {depth} {seed}", "seed": seed,
            "arch.depth": depth, "x": depth / 10, "train.batch_multiple": seed + 1, "optimizer.scaling.exponent": depth / 20,
            "optimizer.scaling.base_lr": 10.0**-seed, BITS: 2 + depth / 100 + seed / 1000, "parameters.total": 1000 * depth,
            "paper": 40.0 + depth, "tokens": 100 * seed + 1, "loss": 3.0 - seed / 10, "front": seed == 0, "skipped": seed,
            "trial": seed, "bits_per_byte": 2.0 + seed, "layer": seed, "experiment": "e", "second": "b", "small": seed - 1.0,
            "large": 0.1, "agree": seed == 2, "dimension": depth + seed,
        }
        for depth in (9, 20)
        for seed in range(3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


BY = {
    "tuning": ["optimizer.scaling.base_lr"], "correlation": ["arch.depth", "x"], "pareto": ["parameters.total"],
    "batch_lr": ["train.batch_multiple", "optimizer.scaling.exponent"], "parallel": ["arch.depth", "x"],
    "importance": ["arch.depth", "seed"], "search": ["trial"], "picture": ["claim"],
    "scales": ["s32", "s16"],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_every_figure_is_drawn_the_same_each_time_and_none_without_data(name):
    data = pd.concat([frame()] * 2, ignore_index=True) if name == "importance" else frame()
    measure = {"loss": "loss", "picture": "effect"}.get(name, BITS)
    by = BY.get(name, ["arch.depth"])
    kind = FIGURES[name]
    if name == "along":
        data = data.assign(metric=BITS, value=data[BITS])
    if name == "picture":
        data["paper"] = "+1.00"
    chart = kind.draw(data, by, measure)
    assert chart is not None and kind.title and kind.alt
    first, second = (svg(specification(kind.draw(data, by, measure))) for _ in range(2))
    assert first == second and first.startswith("<svg") and "currentColor" in first
    assert "NaN" not in first
    assert kind.draw(data.iloc[:0], by, measure) is None


def test_every_figure_that_an_experiment_names_exists():
    asked = {
        (path.stem, name)
        for path in EXPERIMENTS.glob("*.yaml")
        for name in yaml.safe_load(path.read_text()).get("experiment", {}).get("figures", [])
    }
    assert len(asked) > 5 and {(stem, name) for stem, name in asked if name not in {*FIGURES, *DETAILS}} == set()


def test_a_pair_of_arms_is_ordered_so_that_the_difference_is_positive():
    data = pd.DataFrame(
        {"experiment": "e", "first": ["a", "c"], "second": ["b", "d"], "small": [-0.2, 0.1], "large": [-0.3, -0.4]}
    )
    spec = specification(figures.scales(data.assign(agree=[True, False]), ["s32", "s16"], BITS))
    points = spec["layer"][1]["data"]["values"]
    assert [(row["better"], row["worse"], row["small"], row["large"]) for row in points] == [
        ("a", "b", 0.2, 0.3),
        ("d", "c", 0.1, -0.4),
    ]


def test_an_arms_figure_shows_every_seed_and_the_mean():
    spec = specification(figures.arms(frame(), ["arch.depth"], BITS))
    rule, points, means = (layer["data"]["values"] for layer in spec["layer"])
    assert len(points) == 6 and [row["mean"] for row in means] == pytest.approx([2.091, 2.201])
    # Student's t over three seeds: 4.303 standard errors of 0.001 / sqrt(3).
    assert rule[0]["high"] - rule[0]["mean"] == pytest.approx(4.303 * 0.001 / 3**0.5, rel=0.01)


def test_figures_have_a_white_background():
    drawn = svg(specification(figures.arms(frame(), ["arch.depth"], BITS)))
    assert "currentColor" not in on_white(drawn) and "background:#ffffff" in on_white(drawn)
    assert png(drawn).startswith(b"\x89PNG")


def test_a_pareto_front_is_undominated():
    data = pd.DataFrame({"parameters.total": [1, 2, 3, 4], BITS: [3.0, 3.5, 2.0, 2.5], "identity": list("abcd")})
    spec = specification(search_figures.pareto(data, ["parameters.total"], BITS))
    assert [row["identity"] for row in spec["layer"][1]["data"]["values"]] == ["a", "c"]


def test_importance_finds_the_setting_with_an_effect():
    source = np.random.default_rng(0)
    data = pd.DataFrame({"big": source.integers(4, size=60), "small": source.integers(4, size=60), "word": ["a", "b"] * 30})
    data[BITS] = data["big"] + 0.1 * data["small"] + source.normal(0, 0.01, 60)
    found = importances(data, ["big", "small", "word"], BITS, resamples=3)
    assert found["setting"].iloc[0] == "big" and found["share"].iloc[0] > 0.8
    assert (found["low"] <= found["high"]).all() and found["share"].sum() == pytest.approx(1, abs=0.05)
    assert importances(data, ["big"], BITS).empty and importances(data.head(5), ["big", "small"], BITS).empty


def test_arms_without_a_label_are_named_by_the_settings_that_differ():
    data = frame().drop(columns="arm")
    spec = specification(figures.arms(data, ["arch.depth", "x"], BITS))
    assert spec["layer"][2]["data"]["values"][0]["arm"] == "9, 0.9"


def test_along_a_run_each_arm_has_a_band_over_its_seeds() -> None:
    """One panel per benchmark or mean over languages, the page's measure first."""
    metrics = ["test/cloze/all", BITS, "test/bits_per_byte/en", "benchmarks/letters/acc", "validation/bits_per_byte/all"]
    rows = [
        {"identity": f"{arm}{seed}", "arm": arm, "seed": seed, "tokens": tokens, "metric": metric, "value": tokens / 100 + seed}
        for arm in "ab"
        for seed in range(3)
        for tokens in (100, 200)
        for metric in metrics
    ]
    chart = figures.along(pd.DataFrame(rows), [], BITS)
    assert chart is not None
    panels = specification(chart)["concat"]
    assert len(panels) == 3
    titles = [panel["layer"][1]["encoding"]["y"]["title"] for panel in panels]
    assert titles[:2] == ["bits/byte all", "cloze all"]  # a share as in the record, not a percentage
    drawn = pd.DataFrame(panels[0]["data"]["values"]).query("arm == 'a'").sort_values("tokens")
    assert drawn[["low", "mean", "high"]].to_numpy().tolist() == [[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]]
    assert figures.along(pd.DataFrame(rows[:0], columns=list(rows[0])), [], BITS) is None
