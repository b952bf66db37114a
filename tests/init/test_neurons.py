"""Scores and cuts compared with transformers' LlamaForCausalLM and with plain indexing."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.tensors import PARTS, tensor_sizes
from tinylm_ablate.init.compatible import check_shapes
from tinylm_ablate.init.neurons import Scores, choose_units, cut, score

State = dict[str, Tensor]
BASE = Shape(depth=3, width=32, ffn_width=24, heads=4, kv_heads=4, head_dim=8, vocab_size=50)
TOKENS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(1))


def random_state(shape: Shape, seed: int = 0) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=generator) * 0.3 + (len(size) == 1) for name, size in tensor_sizes(shape).items()}


def reference(shape: Shape, state: Mapping[str, Tensor]) -> Any:
    """Return transformers' model with these weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.width, intermediate_size=shape.ffn_width, num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
        tie_word_embeddings=shape.tied, rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.eval()
    absent, spare = model.load_state_dict(dict(state), strict=False)
    assert not spare
    assert set(absent) <= ({"lm_head.weight"} if shape.tied else set())
    return model


def logits(shape: Shape, state: Mapping[str, Tensor]) -> Tensor:
    with torch.no_grad():
        result: Tensor = reference(shape, state)(TOKENS).logits
    return result


def name(layer: int, part: str) -> str:
    return f"model.layers.{layer}.{part}.weight"


def rows_of(heads: Tensor, size: int = 8) -> list[int]:
    return [head * size + i for head in heads.tolist() for i in range(size)]


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor"])
@pytest.mark.parametrize("shape", [BASE, replace(BASE, kv_heads=2, tied=True)], ids=["multi-head", "grouped, tied"])
def test_a_score_is_the_sum_over_all_weights_of_the_unit(shape: Shape, criterion: str) -> None:
    state, gradients = random_state(shape), random_state(shape, 1)
    values = {
        key: weight.double() * gradients[key] if criterion == "taylor" else weight.double() for key, weight in state.items()
    }
    values = {key: value.square() if criterion == "l2" else value.abs() for key, value in values.items()}
    scores = score(state, shape, criterion, gradients if criterion == "taylor" else None)

    def lost(shape_without: Shape, **gone: Any) -> float:
        """Return the weights that are lost when a cut keeps all units except one."""
        chosen = Scores(
            criterion, *(torch.ones_like(part) for part in (scores.width, scores.heads, scores.kv_heads, scores.ffn))
        )
        for axis, index in gone.items():
            getattr(chosen, axis)[index] = -1000.0
        kept = cut(values, shape, shape_without, range(3), chosen)
        return float(sum(value.sum() for value in values.values()) - sum(value.sum() for value in kept.values()))

    assert lost(replace(shape, width=31), width=(slice(None), 5)) == pytest.approx(float(scores.width.sum(0)[5]))
    ffn = sum(float(scores.ffn[layer, 7]) for layer in range(3))
    assert lost(replace(shape, ffn_width=23), ffn=(slice(None), 7)) == pytest.approx(ffn)
    group = shape.heads // shape.kv_heads
    fewer = replace(shape, heads=shape.heads - group, kv_heads=shape.kv_heads - 1)
    head = float(scores.kv_heads[:, 1].sum() + scores.heads[:, group : 2 * group].sum())
    assert lost(fewer, kv_heads=(slice(None), 1)) == pytest.approx(head)


def test_large_matrices_are_scored_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state(BASE)
    whole = score(state, BASE, "l2")
    monkeypatch.setattr("tinylm_ablate.init.neurons._BLOCK", 100)
    blocks = score(state, BASE, "l2")
    for axis in ("width", "heads", "kv_heads", "ffn"):
        torch.testing.assert_close(getattr(blocks, axis), getattr(whole, axis), rtol=1e-12, atol=0)


def test_taylor_uses_real_gradients() -> None:
    state = random_state(BASE)
    model = reference(BASE, state)
    model(TOKENS, labels=TOKENS).loss.backward()
    gradients = {key: weight.grad for key, weight in model.named_parameters()}
    scores = score(state, BASE, "taylor", gradients)
    down = (state[name(1, "mlp.down_proj")] * gradients[name(1, "mlp.down_proj")]).abs().sum(0)
    gate = (state[name(1, "mlp.gate_proj")] * gradients[name(1, "mlp.gate_proj")]).abs().sum(1)
    up = (state[name(1, "mlp.up_proj")] * gradients[name(1, "mlp.up_proj")]).abs().sum(1)
    torch.testing.assert_close(scores.ffn[1].float(), down + gate + up)


def test_gradients_are_required_by_taylor_only() -> None:
    state = random_state(BASE)
    for criterion, gradients in (("taylor", None), ("l1", state), ("magic", None)):
        with pytest.raises(ValueError, match=criterion):
            score(state, BASE, criterion, gradients)


def test_weights_that_are_not_finite_are_refused() -> None:
    state = random_state(BASE)
    state[name(1, "mlp.up_proj")][0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        score(state, BASE, "l2")


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_a_cut_is_plain_indexing_and_runs_in_transformers(kv_heads: int) -> None:
    shape = replace(BASE, kv_heads=kv_heads)
    state, layers = random_state(shape), [0, 2]
    child = replace(shape, depth=2, width=20, ffn_width=10, heads=2, kv_heads=kv_heads // 2)
    scores = score(state, shape, "l2")
    units = choose_units(scores, shape, child, layers)
    width = units.width.tolist()
    plain = {"model.embed_tokens.weight": state["model.embed_tokens.weight"][:, width]}
    plain["model.norm.weight"] = state["model.norm.weight"][width]
    plain["lm_head.weight"] = state["lm_head.weight"][:, width]
    for layer, source in enumerate(layers):
        queries, keys = rows_of(units.queries[source]), rows_of(units.keys[source])
        ffn = units.ffn[source].tolist()
        for part, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            plain[name(layer, f"self_attn.{part}")] = state[name(source, f"self_attn.{part}")][rows][:, width]
        plain[name(layer, "self_attn.o_proj")] = state[name(source, "self_attn.o_proj")][width][:, queries]
        for part in ("gate_proj", "up_proj"):
            plain[name(layer, f"mlp.{part}")] = state[name(source, f"mlp.{part}")][ffn][:, width]
        plain[name(layer, "mlp.down_proj")] = state[name(source, "mlp.down_proj")][width][:, ffn]
        for part in ("input_layernorm", "post_attention_layernorm"):
            plain[name(layer, part)] = state[name(source, part)][width]
    result = cut(state, shape, child, layers, scores)
    assert {key: tuple(weight.shape) for key, weight in result.items()} == tensor_sizes(child)
    torch.testing.assert_close(logits(child, result), logits(child, plain), rtol=0, atol=0)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_cut_heads_and_neurons_equal_a_parent_with_zeros(kv_heads: int) -> None:
    shape = replace(BASE, kv_heads=kv_heads)
    child = replace(shape, ffn_width=10, heads=2, kv_heads=kv_heads // 2)
    state = random_state(shape)
    units = choose_units(score(state, shape, "l1"), shape, child, range(3))
    masked = {key: weight.clone() for key, weight in state.items()}
    for layer in range(3):
        gone = sorted(set(range(32)) - set(rows_of(units.queries[layer])))
        masked[name(layer, "self_attn.o_proj")][:, gone] = 0
        masked[name(layer, "mlp.down_proj")][:, sorted(set(range(24)) - set(units.ffn[layer].tolist()))] = 0
    torch.testing.assert_close(logits(child, cut(state, shape, child, range(3), units)), logits(shape, masked))


def test_cut_channels_equal_a_parent_with_zeros_and_rescaled_norms() -> None:
    child = replace(BASE, width=20)
    state = random_state(BASE)
    units = choose_units(score(state, BASE, "l2"), BASE, child, range(3))
    keep = torch.zeros(32)
    keep[units.width] = 1
    # With zeros outside the kept channels, the parent's mean square is 20/32 of the child's, so its norms divide by less.
    share = 20 / 32
    masked = {}
    for key, weight in state.items():
        axes = next((axes for part, axes in PARTS.items() if part in key), ("vocabulary", "width")[-weight.dim() :])
        for dimension, axis in enumerate(axes):
            if axis == "width":
                weight = weight * (keep if dimension == len(axes) - 1 else keep.unsqueeze(1))
        masked[key] = weight * share**0.5 if weight.dim() == 1 else weight
    eps = replace(BASE, norm_eps=BASE.norm_eps * share)
    torch.testing.assert_close(logits(child, cut(state, BASE, child, range(3), units)), logits(eps, masked))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), criterion=st.sampled_from(["l1", "l2"]), seed=st.integers(0, 5))
def test_any_cut_has_the_childs_sizes_and_repeats(data: st.DataObject, criterion: str, seed: int) -> None:
    def divisor(number: int) -> int:
        return data.draw(st.sampled_from([n for n in range(1, number + 1) if number % n == 0]))

    heads, tied = data.draw(st.integers(1, 6)), data.draw(st.booleans())
    parent = Shape(
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 9)),
        data.draw(st.integers(1, 9)),
        heads,
        divisor(heads),
        2,
        5,
        tied,
    )
    fewer = data.draw(st.integers(1, heads))
    child = Shape(
        data.draw(st.integers(1, 4)), data.draw(st.integers(1, parent.width)), data.draw(st.integers(1, parent.ffn_width)),
        fewer, divisor(fewer), 2, 5, tied and data.draw(st.booleans()),
    )  # fmt: skip
    layers = sorted(data.draw(st.lists(st.integers(0, parent.depth - 1), min_size=child.depth, max_size=child.depth)))
    state = random_state(parent, seed)
    scores = score(state, parent, criterion)
    units = choose_units(scores, parent, child, layers)
    for chosen in (units.width, *units.queries.values(), *units.ffn.values()):
        assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert all(0 < share <= 1 + 1e-12 for share in units.shares.values())
    first, second = cut(state, parent, child, layers, scores), cut(state, parent, child, layers, scores)
    assert {key: tuple(weight.shape) for key, weight in first.items()} == tensor_sizes(child)
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("shape", [BASE, replace(BASE, kv_heads=2), replace(BASE, kv_heads=1, tied=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pruning_to_the_parents_own_shape_is_the_identity(shape: Shape, dtype: torch.dtype) -> None:
    state = {key: weight.to(dtype) for key, weight in random_state(shape).items()}
    result = cut(state, shape, shape, range(3), score(state, shape, "l2"))
    assert result.keys() == state.keys()
    for key, weight in result.items():
        assert weight.dtype == dtype
        assert torch.equal(weight, state[key])
        assert weight.data_ptr() != state[key].data_ptr()


def test_groups_are_kept_together() -> None:
    shape = replace(BASE, heads=6, kv_heads=3)
    units = choose_units(score(random_state(shape), shape, "l2"), shape, replace(shape, heads=4, kv_heads=2), range(3))
    for layer in range(3):
        assert units.queries[layer].tolist() == [head for kv in units.keys[layer].tolist() for head in (2 * kv, 2 * kv + 1)]
    assert units.pool == 1


def test_groups_are_split_exactly_where_the_child_has_smaller_ones() -> None:
    parent = replace(BASE, kv_heads=2)
    state = random_state(parent)
    for kv_heads in (4, 2):
        child = replace(parent, kv_heads=kv_heads)
        torch.testing.assert_close(
            logits(child, cut(state, parent, child, range(3), score(state, parent, "l2"))), logits(parent, state)
        )


def test_the_best_units_are_chosen() -> None:
    """By hand: channels by the kept layers, embedding, last norm and head; parts of groups by their heads and the group's."""
    parent, child = replace(BASE, kv_heads=2), replace(BASE, depth=1, width=2, ffn_width=2, heads=2, kv_heads=2)
    scores = Scores("hand", torch.zeros(4, 32), torch.zeros(3, 4), torch.zeros(3, 2), torch.zeros(3, 24))
    scores.width[0, 9] = 9  # a dropped layer
    scores.width[1, 5] = 5
    scores.width[3, 3] = 4  # embedding, last norm and head
    scores.kv_heads[1] = torch.tensor([5.0, 0.0])  # heads 0 and 1, heads 2 and 3
    scores.heads[1] = torch.tensor([0.0, 2.0, 6.0, 1.0])
    scores.ffn[1, [20, 7]] = 1
    units = choose_units(scores, parent, child, [1])
    assert units.width.tolist() == [3, 5]
    assert (units.queries[1].tolist(), units.keys[1].tolist()) == ([1, 2], [0, 1])
    assert units.ffn[1].tolist() == [7, 20]
    # Each part of a split group counts the key-value head.
    assert units.shares == pytest.approx({"width": 1.0, "heads": 13 / 19, "ffn": 1.0})


def test_groups_that_do_not_nest_are_split_and_pooled() -> None:
    parent, child = replace(BASE, heads=6, kv_heads=2), replace(BASE, heads=4, kv_heads=2)
    state = random_state(parent)
    units = choose_units(score(state, parent, "l2"), parent, child, range(3))
    assert units.pool == 2
    result = cut(state, parent, child, range(3), units)
    old = state[name(0, "self_attn.k_proj")].reshape(2, 8, 32)
    expected = old[units.keys[0]].reshape(2, 2, 8, 32).mean(1).reshape(16, 32)
    torch.testing.assert_close(result[name(0, "self_attn.k_proj")], expected)


def test_an_untied_child_of_a_tied_parent_starts_as_the_same_model() -> None:
    parent, child = replace(BASE, tied=True), replace(BASE, tied=False)
    state = random_state(parent)
    result = cut(state, parent, child, range(3), score(state, parent, "l2"))
    assert result["lm_head.weight"].data_ptr() != result["model.embed_tokens.weight"].data_ptr()
    torch.testing.assert_close(logits(child, result), logits(parent, state))


def test_a_layer_whose_outputs_are_zero_can_be_removed() -> None:
    state = random_state(BASE)
    for part in ("self_attn.o_proj", "mlp.down_proj"):
        state[name(1, part)].zero_()
    child = replace(BASE, depth=2)
    result = cut(state, BASE, child, [0, 2], score(state, BASE, "l2"))
    torch.testing.assert_close(logits(child, result), logits(BASE, state))


def test_channels_are_chosen_only_by_the_kept_layers() -> None:
    state = random_state(BASE)
    child = replace(BASE, depth=2, width=20)
    before = cut(state, BASE, child, [0, 2], score(state, BASE, "l2"))
    for part in PARTS:
        state[name(1, part)][:] = 100 * torch.randn(state[name(1, part)].shape)
    after = cut(state, BASE, child, [0, 2], score(state, BASE, "l2"))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_saved_scores_cut_the_same(tmp_path: Path) -> None:
    state, child = random_state(BASE), replace(BASE, width=20, ffn_width=10, heads=2, kv_heads=2)
    scores = score(state, BASE, "l1")
    scores.save(tmp_path / "scores.safetensors")
    loaded = Scores.load(tmp_path / "scores.safetensors")
    assert loaded.criterion == "l1"
    first, second = cut(state, BASE, child, range(3), scores), cut(state, BASE, child, range(3), loaded)
    assert all(torch.equal(first[key], second[key]) for key in first)
    (tmp_path / "scores.safetensors").write_bytes(b"no scores")
    with pytest.raises(UserError, match="delete it"):
        Scores.load(tmp_path / "scores.safetensors")


def test_one_tensor_at_a_time_is_read() -> None:
    class Watched(Mapping[str, Tensor]):
        """Weights that are created on request, and the number of them in memory."""

        def __init__(self) -> None:
            self.alive = self.most = 0

        def __getitem__(self, key: str) -> Tensor:
            tensor = torch.ones(tensor_sizes(BASE)[key])
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(tensor, self.died)
            return tensor

        def died(self) -> None:
            self.alive -= 1

        def __iter__(self) -> Iterator[str]:
            return iter(tensor_sizes(BASE))

        def __len__(self) -> int:
            return len(tensor_sizes(BASE))

    state = Watched()
    cut(state, BASE, replace(BASE, width=20, ffn_width=10, heads=2, kv_heads=2), range(3), score(state, BASE, "l2"))
    assert state.most <= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 40}, "arch.width=40"),
        ({"ffn_width": 25}, "arch.ffn_width=25"),
        ({"head_dim": 16, "heads": 2, "kv_heads": 2}, "arch.head_dim=16"),
        ({"heads": 5, "kv_heads": 5}, "5 heads"),
        ({"tied": True}, "arch.tied=true"),
        ({"rope_theta": 5e5}, "arch.rope_theta=500000"),
        ({"norm_eps": 1e-3}, "arch.norm_eps=0.001"),
    ],
)
def test_a_child_that_does_not_fit_is_reported(changes: dict[str, Any], message: str) -> None:
    child = replace(BASE, **changes)
    mistakes = check_shapes(BASE, child)
    assert len(mistakes) == 1
    assert message in mistakes[0]
    state = random_state(BASE)
    with pytest.raises(ValueError, match=r"arch\."):
        cut(state, BASE, child, range(3), score(state, BASE, "l2"))


def test_pangus_modules_are_inherited_completely_or_new() -> None:
    parent = replace(BASE, activations=2, shortcuts=1, shortcut_ratio=8)
    assert check_shapes(BASE, parent) == check_shapes(parent, parent) == check_shapes(parent, replace(parent, depth=1)) == []
    (mistake,) = check_shapes(parent, replace(parent, activations=3))
    assert mistake.startswith("arch.activations=3: ")
    assert [mistake.split("=")[0] for mistake in check_shapes(parent, replace(parent, width=24, ffn_width=8))] == [
        "arch.width", "arch.ffn_width",
    ]  # fmt: skip
    assert len(check_shapes(parent, replace(parent, activations=1, shortcuts=0))) == 2


def test_depth_and_vocabulary_never_prevent_inheritance() -> None:
    assert check_shapes(BASE, replace(BASE, depth=40, vocab_size=9999)) == []
