"""Figures 5 and 6 consist of runs of other tables."""

from __future__ import annotations

import pytest

from tests.experiments.test_experiments import cells
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.report.figures import FIGURES
from tinylm_ablate.tasks.graph import Graph


def identities(name: str, scale: str) -> dict[str, str]:
    return {place.get("arm", place.get("arch.depth", "")): settled.identity for place, settled in cells(name, f"scale={scale}")}


@pytest.mark.parametrize("scale", ["paper", "s32"])
def test_figure_5_measures_runs_of_table_2_and_the_parent_of_table_5(scale: str) -> None:
    found, depths = identities("figure05_layer_skip", scale), identities("table02_depth_width", scale)
    assert (found["20_layers"], found["40_layers"]) == (depths["20"], depths["40"])
    parents = {settled.parent.identity for _, settled in cells("table05_inheritance", f"scale={scale}") if settled.parent}
    assert parents == {found["parent_29_layers"]}
    shapes = {place["arm"]: settled.shape for place, settled in cells("figure05_layer_skip", f"scale={scale}")}
    cost = {arm: flops_per_token(shape, 256)["training"] for arm, shape in shapes.items()}
    assert 5 < cost["parent_29_layers"] / cost["20_layers"] < 9
    config = cells("figure05_layer_skip", f"scale={scale}")[0][1].config
    assert config.evaluate.layer_skip == 3 and config.experiment.figures == ["layer_skip"] and "layer_skip" in FIGURES


def test_the_parent_is_trained_once_and_measured_as_figure_5_requests() -> None:
    found = {name: cells(name) for name in ("table05_inheritance", "figure05_layer_skip")}
    graph = Graph([(f"{name} {place['arm']}", settled) for name, own in found.items() for place, settled in own])
    (parent,) = (task for task in graph.runs if task.name == "figure05_layer_skip parent_29_layers")
    children = [task for task in graph.runs if task.run.parent]
    assert {task.run.parent.identity for task in children if task.run.parent} == {parent.run.identity}
    assert all(graph.tasks.index(parent) < graph.tasks.index(task) for task in children)
    skipping = [task for task in graph.measures if task.request.measure.name == "layer_skip" and task.of is parent]
    assert [task.request.settings["layers"] for task in skipping] == [3]
    assert skipping[0].request.stem in parent.stems


@pytest.mark.parametrize("scale", ["paper", "s32"])
def test_figure_6_shows_the_runs_of_table_5(scale: str) -> None:
    found, table = identities("figure06_convergence", scale), identities("table05_inheritance", scale)
    assert list(found) == ["base", "l1", "l2", "taylor", "learned"]
    assert found.items() <= table.items()
    assert found["base"] == identities("table02_depth_width", scale)["20"]
    figures = cells("figure06_convergence", f"scale={scale}")[0][1].config.experiment.figures
    assert figures == ["loss"] and FIGURES.keys() >= set(figures)
