"""The graph of tasks of cells."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import TINY
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.measure.registry import requested
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.graph import Graph
from tinylm_ablate.tasks.run import RunTask

INHERIT = [
    "init=inherit", "init.parent_depth=3", "init.parent_width=32", "init.parent_ffn_width=48", "init.keep_first=1",
    "init.keep_last=1",
]  # fmt: skip
ROUNDS = ["rounds=two", "rounds.parts=1", "rounds.rule=loss"]

#: Cells with different needs, some of which are equivalent.
CELLS: dict[str, list[str]] = {
    "plain": [],
    "twin": ["init.std=1e-2"],
    "seed": ["seed=1"],
    "other vocabulary": ["tokenizer.vocab_size=310"],
    "child": INHERIT,
    "child, other norm": [*INHERIT, "init.criterion=l1"],
    "scored child": [*INHERIT, "init.criterion=taylor"],
    "two rounds": ROUNDS,
    "two rounds, evenly": [*ROUNDS, "rounds.rule=uniform"],
    "bare": ["train.keep_model=false"],
    "more text": ["evaluate.max_bytes=9000"],
}


@functools.cache
def settled(*overrides: str) -> Settled:
    return settle(compose(["runs_dir=nowhere", "init.std=0.01", *TINY, *overrides]))


def graph(*names: str) -> Graph:
    return Graph([(name, settled(*CELLS[name])) for name in names])


#: Measures that a plain run requests.
MEASURES = len(requested(settled()))


def kinds(found: Graph) -> dict[str, int]:
    counted = [task.kind for task in found.tasks]
    return {kind: counted.count(kind) for kind in dict.fromkeys(counted)}


def test_a_plain_run_is_a_chain_of_tasks_and_its_measures() -> None:
    found = graph("plain")
    assert [task.kind for task in found.tasks] == ["text", "tokenizer", "shards", "run", *["measure"] * MEASURES]
    text, tokenizer, shards, run, *measures = found.tasks
    assert (tokenizer.needs, shards.needs, run.needs) == ([text], [tokenizer], [shards])
    assert all(measure.needs == [run] for measure in measures)
    assert run.name == "plain" and measures[0].name == "bits_per_byte of plain"


def test_equivalent_cells_share_every_task() -> None:
    assert [task.key for task in graph("plain", "twin").tasks] == [task.key for task in graph("plain").tasks]
    assert kinds(graph("plain", "seed")) == {"text": 1, "tokenizer": 1, "shards": 1, "run": 2, "measure": 2 * MEASURES}
    assert kinds(graph("plain", "other vocabulary")) == {
        "text": 1,
        "tokenizer": 2,
        "shards": 2,
        "run": 2,
        "measure": 2 * MEASURES,
    }


def test_children_share_their_parent_and_only_some_need_scores() -> None:
    found = graph("child", "child, other norm", "scored child")
    assert kinds(found) == {"text": 1, "tokenizer": 1, "shards": 1, "run": 4, "scores": 1, "measure": 3 * MEASURES}
    parent, *children = found.runs
    assert parent.name.startswith("needed: parent ") and [child.name for child in children] == [
        "child", "child, other norm", "scored child",
    ]  # fmt: skip
    assert all(parent in child.needs for child in children) and not parent.stems
    assert [sum(need.kind == "scores" for need in child.needs) for child in children] == [0, 0, 1]


def test_rounds_share_their_first_and_only_a_rule_by_losses_needs_them() -> None:
    found = graph("two rounds", "two rounds, evenly")
    assert kinds(found) == {"text": 1, "tokenizer": 1, "shards": 1, "run": 3, "losses": 1, "measure": 2 * MEASURES}
    first, by_loss, evenly = found.runs
    assert first.name.startswith("needed: 1 rounds ") and first.run.keep_state == (by_loss.run.rounds.schedule != "rewarm")
    assert [need.kind for need in by_loss.needs] == ["shards", "run", "losses"]
    assert [need.kind for need in evenly.needs] == ["shards", "run"]
    losses = by_loss.needs[-1]
    assert losses.run.identity == first.run.identity and first in losses.needs


@pytest.mark.parametrize("order", [("two rounds", "first"), ("first", "two rounds")])
def test_a_cell_that_another_one_needs_keeps_its_name_and_its_measures(
    order: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = settled(*ROUNDS)
    assert rounds.previous is not None
    monkeypatch.setitem(CELLS, "first", ["rounds=two", "rounds.parts=1", "rounds.rule=loss", "rounds.count=1"])
    first = settled(*CELLS["first"])
    assert first.identity == rounds.previous.identity
    found = graph(*order)
    assert sorted(run.name for run in found.runs) == ["first", "two rounds"]
    assert len(found.run(first.identity).stems) == MEASURES
    assert found.run(first.identity).run.keep_state == rounds.previous.keep_state, "the next round's wish is not forgotten"


@pytest.mark.parametrize("order", [("plain", "bare"), ("bare", "plain")])
def test_weights_are_kept_if_any_cell_requests_them(order: tuple[str, str]) -> None:
    """This does not change the configs of the cells."""
    cells = [(name, settled(*CELLS[name])) for name in order]
    (run,) = Graph(cells).runs
    assert run.run.config.train.keep_model
    assert {name: cell.config.train.keep_model for name, cell in cells} == {"plain": True, "bare": False}
    (alone,) = graph("bare").runs
    assert not alone.run.config.train.keep_model


def test_a_run_is_measured_by_everything_that_any_cell_requests() -> None:
    found = graph("bare", "more text")
    (run,) = found.runs
    wanted = [request.stem for name in ("bare", "more text") for request in requested(settled(*CELLS[name]))]
    assert run.stems == [task.request.stem for task in found.measures] == list(dict.fromkeys(wanted))
    bits = [task.request for task in found.measures if task.request.measure.name == "bits_per_byte"]
    assert [request.settings["max_bytes"] for request in bits] == [2000, 9000]
    assert sum(task.request.measure.name == "cloze" for task in found.measures) == 1


@settings(max_examples=12)
@given(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=6))
def test_every_task_is_listed_once_after_its_needs(names: list[str]) -> None:
    found = graph(*names)
    keys = [task.key for task in found.tasks]
    assert len(set(keys)) == len(keys)
    place = {key: number for number, key in enumerate(keys)}
    for task in found.tasks:
        assert all(place[need.key] < place[task.key] for need in task.needs)
        assert all(need is found.tasks[place[need.key]] for need in task.needs), "a task and its copy would both be done"
    wanted = {settled(*CELLS[name]).identity for name in names}
    assert wanted <= {run.run.identity for run in found.runs}
    assert all(isinstance(run, RunTask) and run.product.parent.name == run.run.identity for run in found.runs)
