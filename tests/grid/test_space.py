"""The space and the objectives of a search."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.diagnosis import diagnose
from tinylm_ablate.grid.objectives import parse_objectives
from tinylm_ablate.grid.space import parse_space

SPACE = [
    ("a=1,2", CategoricalDistribution(["1", "2"]), ["a=1", "a=2"]),
    ("init=choice(gpt2,internlm)", CategoricalDistribution(["gpt2", "internlm"]), ["init=gpt2", "init=internlm"]),
    ("p='a b','c,d'", CategoricalDistribution(["'a b'", "'c,d'"]), ["p='a b'", "p='c,d'"]),
    ("d=range(10,40)", IntDistribution(10, 39), ["d=10", "d=39"]),
    ("d=range(40,10,-7)", IntDistribution(12, 40, step=7), ["d=12", "d=40"]),
    ("d=range(3,4)", IntDistribution(3, 3), ["d=3"]),
    ("f=range(0,1,0.25)", FloatDistribution(0, 0.75, step=0.25), ["f=0.0", "f=0.75"]),
    ("f=interval(0.5,2)", FloatDistribution(0.5, 2), ["f=0.5", "f=2.0"]),
    ("lr=tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True), ["lr=0.0001", "lr=0.01"]),
    ("w=int(interval(16,64))", IntDistribution(16, 64), ["w=16", "w=64"]),
    ("w=tag(log,int(interval(16,64)))", IntDistribution(16, 64, log=True), ["w=16", "w=64"]),
    ("w=tag(log,range(16,64))", IntDistribution(16, 63, log=True), ["w=16", "w=63"]),
]

NO_SPACE = [
    ("x=interval(3,1)", "its first end is above its second"),
    ("x=interval(0,inf)", "two finite numbers"),
    ("x=tag(log,interval(0,1))", "numbers above 0"),
    ("x=tag(log,range(16,64,8))", "steps of 1"),
    ("x=range(3,3)", "has no values"),
    ("x=tag(fast,interval(0,1))", "allowed tags: log, int"),
    ("x=tag(log,choice(1,2))", "a choice has no order"),
    ("x=glob(*)", "a search takes lists"),
]


@pytest.mark.parametrize(("text", "distribution", "probes"), SPACE, ids=lambda value: value if isinstance(value, str) else "")
def test_hydras_sweeps_become_distributions(text: str, distribution: object, probes: list[str]) -> None:
    shared, (axis,) = parse_space(None, ["arch.tied=true", text])
    assert shared == ["arch.tied=true"]
    assert axis.distribution == distribution
    assert axis.probes() == probes


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_proposed_number_reaches_the_run_exactly(value: float) -> None:
    _, (axis,) = parse_space(None, ["x=interval(0,1)"])
    assert OverridesParser.create().parse_override(f"x={axis.value(value)}").value() == value


def test_mistakes_of_a_space_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_space(None, [text for text, _ in NO_SPACE])
    assert len(caught.value.mistakes) == len(NO_SPACE)
    for mistake, (text, reason) in zip(caught.value.mistakes, NO_SPACE, strict=True):
        assert mistake.startswith(text) and reason in mistake
    with pytest.raises(ConfigError, match="needs at least one axis"):
        parse_space(None, ["x=1"])


def test_an_argument_replaces_an_axis_of_an_experiment() -> None:
    params = {"arch.depth": "range(1,5)", "init": ["gpt2", "internlm"]}
    assert [axis.key for axis in parse_space(params, [])[1]] == ["arch.depth", "init"]
    shared, axes = parse_space(params, ["arch.depth=2"])
    assert shared == ["arch.depth=2"] and [axis.key for axis in axes] == ["init"]


def test_a_value_after_several_replaces_them_or_is_a_mistake() -> None:
    shared, axes = parse_space({"a": "7,8"}, ["a=2", "a=range(1,5)", "b=1,2"])
    assert shared == ["a=2"] and [axis.key for axis in axes] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"^1 mistake.*\n  - a=2: a=range\(1,5\) is given too; allowed: only one of them$"):
        parse_space({"a": "7,8"}, ["a=range(1,5)", "a=2", "b=1,2"])


def test_unknown_and_impossible_values_of_a_range_are_reported_together() -> None:
    output = "\n".join(
        diagnose(["hydra/sweeper=optuna", "arch.dpeth=range(1,5)", "arch.depth=int(interval(0,5))", "x=interval(2,1)"])
    )
    for part in (
        "arch.dpeth: no such key; did you mean arch.depth?",
        "arch.depth=0: allowed",
        "x=interval(2,1): its",
    ):
        assert part in output


def test_objectives_have_a_direction() -> None:
    names = ["validation/bits_per_byte/all", "test/cloze/zh", "decode/tokens_per_second"]
    evaluate = compose([]).evaluate
    found, mistakes = parse_objectives(names, evaluate)
    assert [(o.maximize, o.language) for o in found] == [(False, None), (True, "zh"), (True, None)] and not mistakes
    _, mistakes = parse_objectives(["validation/cloze/all", "train/loss", "quality"], evaluate)
    assert [mistake.split(":")[0] for mistake in mistakes] == [
        "search.objectives=[validation/cloze/all]",
        "search.objectives=[quality]",
    ]
    evaluate.cloze_questions = 0
    assert "cloze_questions above 0" in parse_objectives(["test/cloze/all"], evaluate)[1][0]
    assert parse_objectives([], evaluate)[1]
