"""Grouped-query attention by mean-pooling key and value heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.formats.tensors import tensor_sizes
from tinylm_ablate.init.neurons import cut, score
from tinylm_ablate.init.pool import check_pool, mean_heads

SHAPE = Shape(depth=2, width=24, ffn_width=16, heads=6, kv_heads=6, head_dim=4, vocab_size=40)


def random_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(size, generator=generator) * 0.3 for key, size in tensor_sizes(SHAPE).items()}


def logits(shape: Shape, state: dict[str, torch.Tensor]) -> torch.Tensor:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=24, intermediate_size=16, num_hidden_layers=2, num_attention_heads=6, head_dim=4,
        num_key_value_heads=shape.kv_heads,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.eval()
    model.load_state_dict(state)
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(20).reshape(2, 10)).logits
    return result


def pooled_by_a_cut(state: dict[str, torch.Tensor], shape: Shape, kv_heads: int) -> dict[str, torch.Tensor]:
    """Return the same model with fewer key-value heads, cut by inheritance."""
    return cut(state, shape, replace(shape, kv_heads=kv_heads), range(shape.depth), score(state, shape, "l2"))


@pytest.mark.parametrize("kv_heads", [1, 2, 3])
def test_equal_heads_in_a_group_pool_without_a_change(kv_heads: int) -> None:
    state = random_state()
    group = 6 // kv_heads
    for layer in range(2):
        for part in ("k_proj", "v_proj"):
            weight = state[f"model.layers.{layer}.self_attn.{part}.weight"].view(kv_heads, group, 4, 24)
            weight[:] = weight[:, :1].clone()
    pooled = pooled_by_a_cut(state, SHAPE, kv_heads)
    child = replace(SHAPE, kv_heads=kv_heads)
    assert {key: tuple(weight.shape) for key, weight in pooled.items()} == tensor_sizes(child)
    torch.testing.assert_close(logits(child, pooled), logits(SHAPE, state))


def test_pooling_is_the_mean_of_neighbors() -> None:
    state = random_state()
    name = "model.layers.1.self_attn.v_proj.weight"
    pooled = pooled_by_a_cut(state, SHAPE, 2)[name]
    expected = torch.stack([state[name][start : start + 12].view(3, 4, 24).mean(0) for start in (0, 12)])
    torch.testing.assert_close(pooled, expected.view(8, 24))


def test_pooling_to_the_same_number_is_the_identity() -> None:
    state = random_state()
    pooled = pooled_by_a_cut(state, SHAPE, 6)
    assert all(torch.equal(pooled[key], state[key]) for key in state)


def test_the_mean_of_half_precision_is_taken_in_single() -> None:
    weight = torch.tensor([[256.0], [1.0], [1.0], [1.0]], dtype=torch.bfloat16)
    assert mean_heads(weight, 1, 4).item() == torch.tensor(259 / 4, dtype=torch.bfloat16).item()


@pytest.mark.parametrize("kv_heads", [4, 5, 12])
def test_a_number_that_does_not_divide_is_refused(kv_heads: int) -> None:
    [mistake] = check_pool(SHAPE, replace(SHAPE, heads=kv_heads, kv_heads=kv_heads))
    assert mistake.startswith(f"arch.kv_heads={kv_heads}: ") and mistake.endswith("allowed: 1, 2, 3, 6")


def test_pooling_changes_nothing_else() -> None:
    assert check_pool(SHAPE, replace(SHAPE, kv_heads=3)) == []
    mistakes = check_pool(SHAPE, Shape(depth=3, width=16, ffn_width=16, heads=4, kv_heads=4, head_dim=4, vocab_size=40))
    assert [mistake.split("=")[0] for mistake in mistakes] == ["arch.depth", "arch.width", "arch.kv_heads"]
