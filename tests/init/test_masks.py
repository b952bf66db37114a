"""Learned masks: gates compared with their formulas, the gated model with the cut model, and results of training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import logistic
from torch import Tensor

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.config import MasksConfig
from tinylm_ablate.errors import RunFailed
from tinylm_ablate.formats.huggingface import from_huggingface, to_huggingface
from tinylm_ablate.formats.tensors import tensor_sizes
from tinylm_ablate.init import masks as module
from tinylm_ablate.init.calibration import Calibration
from tinylm_ablate.init.gates import Gates, fold, gated, gates_for
from tinylm_ablate.init.masks import Learned, Passes, Target, backward, learn, open_masks
from tinylm_ablate.init.neurons import Units, choose_units, cut, score
from tinylm_ablate.init.parents import Parent

Calibrations = Callable[[int], Calibration]
SHAPE = Shape(depth=3, width=32, ffn_width=32, heads=4, kv_heads=2, head_dim=8, vocab_size=64)
CHILD = replace(SHAPE, width=26, ffn_width=20, heads=2, kv_heads=1)
TOKENS = torch.randint(0, 64, (3, 13), generator=torch.Generator().manual_seed(1))


def settings(**changes: Any) -> MasksConfig:
    values = {
        "learning_rate": 1.0,
        "weight_learning_rate": 1e-4,
        "warmup": 0.2,
        "batch_tokens": 256,
        "steps": 3200,
        "temperature": 2 / 3,
    }
    return MasksConfig(**{**values, **changes})


def learned(
    parent: Parent, child: Shape, layers: Sequence[int], text: Calibration, masks: MasksConfig, precision: str = "fp32"
) -> Learned:
    (found,) = learn([Target(parent, child, layers)], text, masks, precision)
    return found


def random_weights(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """Return a decoder's weights, none of which is zero or one."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(parameter.shape, generator=generator) * 0.3 + ("norm" in name)
        for name, parameter in Decoder(shape).named_parameters()
    }


def logits(shape: Shape, weights: dict[str, Tensor]) -> Tensor:
    """Return logits in double precision, so that differences beyond rounding are visible."""
    decoder = Decoder(shape).double()
    decoder.load_state_dict(weights)
    with torch.no_grad():
        result: Tensor = decoder(TOKENS)
    return result


def hard(shape: Shape, units: Units, soft: bool, seed: int = 2) -> dict[str, Tensor]:
    """Return gates that are zero outside ``units``, and one (or another positive value) within."""
    generator = torch.Generator().manual_seed(seed)

    def gates(rows: list[Tensor], count: int) -> Tensor:
        result = torch.zeros(len(rows), count)
        for row, kept in zip(result, rows, strict=True):
            row[kept] = torch.rand(len(kept), generator=generator) + 0.2 if soft else torch.ones(len(kept))
        return result

    layers = range(shape.depth)
    return {
        "width": gates([units.width], shape.width),
        "heads": gates([units.keys[layer].unique() for layer in layers], shape.kv_heads),
        "ffn": gates([units.ffn[layer] for layer in layers], shape.ffn_width),
    }


def test_gates_are_open_with_their_probability() -> None:
    gates = Gates(1, 5, 3, temperature=0.5)
    values = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0])
    with torch.no_grad():
        gates.log_alpha[0] = values
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([gates.sample(generator).detach() for _ in range(20_000)])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    # z > 0 where sigmoid((x + a) / beta) > 1/12, and z = 1 where it is over 11/12, x being logistic.
    edge = 0.5 * math.log(11)
    for column, value in enumerate(values.tolist()):
        open_, whole = logistic.sf(-edge - value), logistic.sf(edge - value)
        assert float(gates.probability().detach()[0, column]) == pytest.approx(open_, abs=1e-6)
        assert float((drawn[:, column] > 0).float().mean()) == pytest.approx(open_, abs=0.015)
        assert float((drawn[:, column] == 1).float().mean()) == pytest.approx(whole, abs=0.015)
    assert gates.values()[0].tolist() == pytest.approx(np.clip(1.2 * expit(values.numpy()) - 0.1, 0, 1))


def test_the_penalty_is_the_lagrangian_of_each_target() -> None:
    gates = Gates(2, 4, 1, temperature=2 / 3)
    with torch.no_grad():
        gates.log_alpha.copy_(torch.tensor([[4.0, -4.0, 0.0, 0.0], [-4.0, -4.0, -4.0, 4.0]]))
        gates.multipliers.copy_(torch.tensor([[2.0, -3.0], [5.0, 7.0]]))
    closed = 1 - expit(gates.log_alpha.detach().numpy() + 2 / 3 * math.log(11)).mean(1)
    excess = closed - 0.5 * 0.75
    expected = 2 * excess[0] - 3 * excess[1] + 5 * excess[0] ** 2 + 7 * excess[1] ** 2
    assert float(gates.penalty(0.5)) == pytest.approx(expected, rel=1e-5)
    assert gates.distance().tolist() == pytest.approx((4 * (1 - closed) - 1).tolist(), rel=1e-5)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"kv_heads": 4}, {"tied": True}, {"qkv_bias": True}, {"qk_norm": True, "tied": True}],
    ids=["grouped", "multi-head", "tied", "biases", "query norms"],
)
def test_the_gated_forward_equals_the_cut_forward(changes: dict[str, Any], soft: bool) -> None:
    shape = replace(SHAPE, **changes)
    child = replace(shape, width=26, ffn_width=20, heads=2, kv_heads=shape.kv_heads // 2)
    weights = {name: weight.double() for name, weight in random_weights(shape).items()}
    units = choose_units(score(to_huggingface(weights, shape), shape, "l2"), shape, child, range(3))
    gates = {axis: values.double() for axis, values in hard(shape, units, soft).items()}
    folded = to_huggingface(fold(weights, shape, gates), shape)
    pruned = from_huggingface(cut(folded, shape, child, range(3), units), child)
    torch.testing.assert_close(logits(shape, gated(weights, shape, gates)), logits(child, pruned), rtol=1e-9, atol=1e-9)


def test_open_gates_change_nothing() -> None:
    weights = random_weights(SHAPE)
    gates = gates_for(SHAPE, CHILD, 2 / 3)
    values = {axis: gate.values() for axis, gate in gates.items()}
    assert {axis: tuple(value.shape) for axis, value in values.items()} == {"width": (1, 32), "heads": (3, 2), "ffn": (3, 32)}
    for result in (fold(weights, SHAPE, values), gated(weights, SHAPE, values)):
        assert all(torch.equal(result[name], weight) for name, weight in weights.items())
    assert gates_for(SHAPE, replace(SHAPE, ffn_width=31), 2 / 3).keys() == {"ffn"}


def test_gradients_reach_gates_and_weights_as_through_one_graph(calibration: Calibrations) -> None:
    """In micro batches and through copies, compared with autograd through the whole computation."""
    weights = {name: weight.requires_grad_() for name, weight in random_weights(replace(SHAPE, tied=True)).items()}
    shape, decoder = replace(SHAPE, tied=True), Decoder(replace(SHAPE, tied=True))
    gates = gates_for(shape, CHILD, 2 / 3)
    leaves = [*weights.values(), *(gate.log_alpha for gate in gates.values())]

    def current() -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for gate in gates.values():
                gate.log_alpha.fill_(0.5)
        return gated(weights, shape, {axis: gate.sample(generator) for axis, gate in gates.items()})

    (whole,) = calibration(6).batches(0, 6)
    (total,) = backward(Passes(decoder, "fp32"), [current()], [whole[:4], whole[4:]], 6)
    found = [leaf.grad.clone() for leaf in leaves if leaf.grad is not None]
    assert len(found) == len(leaves)

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, tokens: Tensor) -> Tensor:
            return torch.nn.functional.cross_entropy(self.decoder(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    named = {f"decoder.{name}": weight for name, weight in current().items()}
    loss = torch.func.functional_call(Loss(), named, (whole,))
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, theirs in zip(found, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_masks_reach_their_targets_and_the_cut_has_the_childs_shape(trained: Parent, calibration: Calibrations) -> None:
    before = {name: weight.clone() for name, weight in trained.state.items()}
    child = replace(CHILD, depth=2)
    result = learned(trained, child, [0, 2], calibration(8 * 160), settings())
    assert result.record["steps"] == 160
    assert result.record["distance"].keys() == {"width", "heads", "ffn"}
    assert len(result.record["distance"]["ffn"]) == 2
    assert all(abs(distance) < 0.5 for distances in result.record["distance"].values() for distance in distances)
    pruned = cut(result.state, SHAPE, child, [0, 2], result.scores)
    assert {name: tuple(weight.shape) for name, weight in pruned.items()} == tensor_sizes(child)
    # Much better from the first step on than the parent's weights chosen by another criterion.
    assert loss_of(child, pruned, calibration) < loss_of(
        child, cut(trained.state, SHAPE, child, [0, 2], l2(trained)), calibration
    )
    assert all(torch.equal(trained.state[name], weight) for name, weight in before.items())


def l2(parent: Parent) -> Any:
    return score(parent.state, parent.shape, "l2")


def loss_of(shape: Shape, state: dict[str, Tensor], calibration: Calibrations) -> float:
    decoder = Decoder(shape)
    decoder.load_state_dict(from_huggingface(state, shape))
    with torch.no_grad():
        losses = [float(decoder.loss(batch[:, :-1], batch[:, 1:])) for batch in calibration(1800).batches(1600, 1700)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("axis", ["width", "heads", "ffn"])
def test_a_harmful_unit_is_removed_first(planted: Callable[[str], Parent], calibration: Calibrations, axis: str) -> None:
    """However large its weights are: another criterion keeps it."""
    changes: dict[str, dict[str, Any]] = {
        "width": {"width": 31},
        "heads": {"heads": 2, "kv_heads": 1},
        "ffn": {"ffn_width": 31},
    }
    child = replace(SHAPE, **changes[axis])

    def gone(scores: Any) -> list[list[int]]:
        units = choose_units(scores, SHAPE, child, range(3))
        kept = {"width": [units.width], "heads": list(units.keys.values()), "ffn": list(units.ffn.values())}[axis]
        every = {"width": 32, "heads": 2, "ffn": 32}[axis]
        return [sorted(set(range(every)) - set(row.tolist())) for row in kept]

    row, unit = {"width": (0, 1), "heads": (1, 0), "ffn": (2, 3)}[axis]
    parent = planted(axis)
    assert gone(l2(parent))[row] != [unit]
    result = learned(parent, child, range(3), calibration(8 * 120), settings())
    assert gone(result.scores)[row] == [unit]


def test_the_parents_own_shape_is_the_parent(trained: Parent, calibration: Calibrations) -> None:
    result = learned(trained, SHAPE, range(3), calibration(16), settings())
    assert (result.record["steps"], result.record["distance"]) == (0, {})
    state = cut(result.state, SHAPE, SHAPE, range(3), result.scores)
    assert state.keys() == trained.state.keys()
    assert all(torch.equal(state[name], weight) for name, weight in trained.state.items())


def test_frozen_weights_are_the_parents_times_the_gates(trained: Parent, calibration: Calibrations) -> None:
    child = replace(SHAPE, ffn_width=16)
    result = learned(trained, child, range(3), calibration(8 * 60), settings(weight_learning_rate=0))
    for name, weight in trained.state.items():
        if not name.endswith("down_proj.weight"):
            assert torch.equal(result.state[name], weight)
            continue
        layer = int(name.split(".")[2])
        log_alpha = torch.logit(result.scores.ffn[layer]) - 2 / 3 * math.log(11)
        gates = (1.2 * torch.sigmoid(log_alpha) - 0.1).clamp(0, 1)
        torch.testing.assert_close(result.state[name], weight * gates.float(), rtol=1e-3, atol=1e-4)
    assert not torch.equal(
        result.state["model.layers.0.mlp.down_proj.weight"], trained.state["model.layers.0.mlp.down_proj.weight"]
    )


def test_groups_are_kept_together_and_dropped_layers_are_missing(trained: Parent, calibration: Calibrations) -> None:
    child = replace(SHAPE, depth=3, heads=2, kv_heads=1)
    result = learned(trained, child, [0, 0, 2], calibration(8 * 20), settings())
    assert not any(name.startswith("model.layers.1.") for name in result.state)
    units = choose_units(result.scores, SHAPE, child, [0, 0, 2])
    assert units.queries.keys() == {0, 2}
    for layer in units.queries:
        (group,) = units.keys[layer].tolist()
        assert units.queries[layer].tolist() == [2 * group, 2 * group + 1]
    repeated = cut(result.state, SHAPE, child, [0, 0, 2], units)
    assert torch.equal(repeated["model.layers.0.mlp.up_proj.weight"], repeated["model.layers.1.mlp.up_proj.weight"])


def test_learned_once_for_each_target(
    trained: Parent, calibration: Calibrations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = replace(SHAPE, ffn_width=16)
    (first,) = open_masks([Target(trained, child, [0, 1, 2])], calibration(16), settings(), tmp_path)
    assert isinstance(first, Learned)
    (other,) = open_masks([Target(trained, replace(SHAPE, ffn_width=20), [0, 1, 2])], calibration(16), settings(), tmp_path)
    assert not torch.equal(first.scores.ffn, other.scores.ffn)
    open_masks([Target(trained, child, [0, 1, 2])], calibration(24), settings(), tmp_path)
    open_masks([Target(trained, child, [0, 1, 2])], calibration(16), settings(warmup=0.5), tmp_path)
    assert len(list((tmp_path / "scores").glob("*-learned-*/masks.json"))) == 4
    monkeypatch.setattr(module, "learn", lambda *_: pytest.fail("learned again"))
    (again,) = open_masks([Target(trained, child, [0, 1, 2])], calibration(16), settings(), tmp_path)
    one, two = (cut(found.state, SHAPE, child, range(3), found.scores) for found in (first, again))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.record == first.record
    assert len(first.record["curve"]) == 2


def test_learning_is_the_same_every_time(trained: Parent, calibration: Calibrations) -> None:
    one, two = (learned(trained, CHILD, range(3), calibration(16), settings()) for _ in range(2))
    assert torch.equal(one.scores.width, two.scores.width)
    assert all(torch.equal(one.state[name], two.state[name]) for name in one.state)


def test_several_targets_are_learned_as_each_alone(trained: Parent, calibration: Calibrations) -> None:
    """Bit-identically, for different parents, layers and sizes; one child has the parent's width, and one its whole shape."""
    other = replace(trained, state={name: weight * 0.9 for name, weight in trained.state.items()})
    targets = [
        Target(trained, CHILD, [0, 2]), Target(other, CHILD, [0, 2]), Target(trained, replace(SHAPE, ffn_width=16), [0, 1]),
        Target(other, SHAPE, [1, 2]),
    ]  # fmt: skip
    together = learn(targets, calibration(8 * 4), settings())
    for target, found in zip(targets, together, strict=True):
        alone = learned(*target, calibration(8 * 4), settings())
        assert found.record == alone.record
        assert torch.equal(found.scores.width, alone.scores.width) and torch.equal(found.scores.ffn, alone.scores.ffn)
        assert found.state.keys() == alone.state.keys()
        assert all(torch.equal(found.state[name], weight) for name, weight in alone.state.items())
    assert [found.record["steps"] for found in together] == [4, 4, 4, 0]


@pytest.mark.gpu
def test_a_graph_on_a_gpu_learns_the_same(trained: Parent, calibration: Calibrations) -> None:
    small = replace(trained.shape, width=trained.shape.width - 8)
    targets = [Target(trained, small, range(trained.shape.depth))] * 2
    expected, found = (learn(targets, calibration(8 * 4), settings(), device=device) for device in ("cpu", "cuda"))
    for one, two in zip(expected, found, strict=True):
        for mine, theirs in zip(one.record["curve"], two.record["curve"], strict=True):
            assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-2)


def test_masks_that_end_far_from_their_target_are_reported(
    trained: Parent, calibration: Calibrations, capsys: pytest.CaptureFixture[str]
) -> None:
    result = learned(trained, CHILD, range(3), calibration(8), settings())
    assert result.record["steps"] == 1
    output = capsys.readouterr().err
    assert "masks of width" in output and "of 26 of 32" in output and "init.masks.steps" in output
    pruned = cut(result.state, SHAPE, CHILD, range(3), result.scores)
    assert {name: tuple(weight.shape) for name, weight in pruned.items()} == tensor_sizes(CHILD)


def test_a_loss_that_is_not_finite_stops_learning(trained: Parent, calibration: Calibrations) -> None:
    with pytest.raises(RunFailed, match=r"init\.masks\.weight_learning_rate"):
        learned(trained, CHILD, range(3), calibration(64), settings(weight_learning_rate=1e30))


def test_products_in_half_precision(trained: Parent, calibration: Calibrations) -> None:
    half = learned(trained, CHILD, range(3), calibration(8), settings(), precision="bf16")
    full = learned(trained, CHILD, range(3), calibration(8), settings())
    assert half.record["loss"] != full.record["loss"]
    assert half.record["loss"] == pytest.approx(full.record["loss"], rel=0.02)
