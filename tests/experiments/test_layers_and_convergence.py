"""Figures 5 and 6 are made of runs that other tables train."""

from __future__ import annotations

import pytest

from tests.experiments.test_experiments import cells
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.grid.work import gather
from tinylm_ablate.report import convergence, layer_skip


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
    assert config.evaluate.layer_skip == 3 and config.experiment.figures == [layer_skip.NAME]


def test_the_parent_is_measured_as_figure_5_asks_where_table_5_wants_it_first() -> None:
    wanted = [
        (name, place["arm"], settled)
        for name in ("table05_inheritance", "figure05_layer_skip")
        for place, settled in cells(name)
    ]
    works = gather([(f"{name} {arm}", settled, [name, arm]) for name, arm, settled in wanted])
    (parent,) = (work for work in works if work.name == "figure05_layer_skip parent_29_layers")
    assert parent.settled.config.evaluate.layer_skip == 3
    assert parent.overrides == ["figure05_layer_skip", "parent_29_layers"]
    children = [work.settled for work in works if work.settled.parent]
    assert {child.parent.identity for child in children if child.parent} == {parent.identity}
    assert works.index(parent) < min(works.index(work) for work in works if work.settled in children)


@pytest.mark.parametrize("scale", ["paper", "s32"])
def test_figure_6_shows_the_runs_of_table_5(scale: str) -> None:
    found, table = identities("figure06_convergence", scale), identities("table05_inheritance", scale)
    assert list(found) == ["base", "l1", "l2", "taylor", "learned"]
    assert found.items() <= table.items()
    assert found["base"] == identities("table02_depth_width", scale)["20"]
    assert cells("figure06_convergence", f"scale={scale}")[0][1].config.experiment.figures == [convergence.NAME]
