"""Parents with biases of queries, keys and values (Qwen2), and with norms of queries and keys (Qwen3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.decoding import Cached
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.formats.huggingface import from_huggingface
from tinylm_ablate.formats.model_config import huggingface_config, model_type
from tinylm_ablate.formats.tensors import tensor_sizes
from tinylm_ablate.init.compatible import check_shapes
from tinylm_ablate.init.neurons import Scores, cut, score

PLAIN = Shape(depth=3, width=32, ffn_width=24, heads=4, kv_heads=2, head_dim=8, vocab_size=60, norm_eps=1e-6)
QWEN2, QWEN3 = replace(PLAIN, qkv_bias=True), replace(PLAIN, qk_norm=True)
QWENS = pytest.mark.parametrize("shape", [QWEN2, QWEN3], ids=["qwen2", "qwen3"])


def random_state(shape: Shape) -> dict[str, torch.Tensor]:
    """Return biases and norms that change the result."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(size, generator=generator) * 0.2 + ("norm" in name) for name, size in tensor_sizes(shape).items()}


def tokens() -> torch.Tensor:
    return torch.arange(40).reshape(2, 20)


def theirs(shape: Shape, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return logits of transformers in double precision: biases make them large, and only rounding may differ."""
    import transformers

    kind = {"qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type(shape)]
    config = getattr(transformers, f"{kind}Config")(**huggingface_config(shape, 64, 0))
    model: Any = getattr(transformers, f"{kind}ForCausalLM")(config).eval().double()
    model.load_state_dict(state)
    with torch.no_grad():
        logits: torch.Tensor = model(tokens()).logits
    return logits


def ours(shape: Shape, state: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = double_decoder(shape, state)(tokens())
    return logits


def double_decoder(shape: Shape, state: dict[str, torch.Tensor]) -> Decoder:
    decoder = Decoder(shape).double()
    decoder.load_state_dict(from_huggingface(state, shape))
    return decoder


@QWENS
def test_logits_equal_transformers_with_and_without_the_cache(shape: Shape) -> None:
    state = random_state(shape)
    expected = theirs(shape, state)
    torch.testing.assert_close(ours(shape, state), expected, rtol=1e-5, atol=1e-5)
    decoder = double_decoder(shape, state)
    with torch.no_grad():
        cached = Cached(decoder, batch=2, length=20)
        steps = [cached.read(tokens()[:, :7]), *(cached.read(tokens()[:, [position]]) for position in range(7, 20))]
    torch.testing.assert_close(torch.stack(steps, dim=1), expected[:, 6:], rtol=1e-5, atol=1e-5)


@QWENS
def test_biases_and_norms_change_the_logits(shape: Shape) -> None:
    state = random_state(shape)
    without = {name: weight for name, weight in state.items() if name in tensor_sizes(PLAIN)}
    assert not torch.allclose(ours(shape, state), ours(PLAIN, without), atol=1e-2)


@QWENS
def test_removing_heads_without_output_changes_nothing(shape: Shape) -> None:
    """Half of the groups and neurons have no output, so a child without them computes the same as its parent."""
    state = random_state(shape)
    for layer in range(shape.depth):
        state[f"model.layers.{layer}.self_attn.o_proj.weight"][:, :16] = 0  # the heads of the first group
        state[f"model.layers.{layer}.mlp.down_proj.weight"][:, ::2] = 0
    depth = shape.depth
    scores = Scores(
        "by hand", width=torch.ones(depth + 1, 32), heads=torch.tensor([[0.0, 0, 1, 1]] * depth),
        kv_heads=torch.tensor([[0.0, 1]] * depth), ffn=torch.tensor([[0.0, 1] * 12] * depth),
    )  # fmt: skip
    child = replace(shape, heads=2, kv_heads=1, ffn_width=12)
    small = cut(state, shape, child, range(depth), scores)
    assert {name: tuple(weight.shape) for name, weight in small.items()} == tensor_sizes(child)
    torch.testing.assert_close(theirs(child, small), theirs(shape, state), rtol=1e-5, atol=1e-5)


@QWENS
@pytest.mark.parametrize("layers", [(0, 2), (0, 1, 1, 2)])
def test_layers_keep_their_biases_and_norms(shape: Shape, layers: tuple[int, ...]) -> None:
    state = random_state(shape)
    child = replace(shape, depth=len(layers))
    made = cut(state, shape, child, layers, score(state, shape, "l2"))
    for new, old in enumerate(layers):
        prefix = f"model.layers.{new}."
        for name in (name for name in made if name.startswith(prefix)):
            assert torch.equal(made[name], state[f"model.layers.{old}.{name.removeprefix(prefix)}"])
    assert theirs(child, made).isfinite().all()


@QWENS
def test_equal_heads_pool_without_a_change(shape: Shape) -> None:
    state = random_state(shape)
    for name, weight in state.items():
        if "k_proj" in name or "v_proj" in name:
            weight.view(2, 8, -1)[1] = weight.view(2, 8, -1)[0]
    child = replace(shape, kv_heads=1)
    pooled = cut(state, shape, child, range(shape.depth), score(state, shape, "l2"))
    assert {name: tuple(weight.shape) for name, weight in pooled.items()} == tensor_sizes(child)
    torch.testing.assert_close(theirs(child, pooled), theirs(shape, state), rtol=1e-5, atol=1e-5)


def test_biases_are_pooled_like_rows() -> None:
    state = random_state(QWEN2)
    name = "model.layers.1.self_attn.k_proj.bias"
    pooled = cut(state, QWEN2, replace(QWEN2, kv_heads=1), range(QWEN2.depth), score(state, QWEN2, "l2"))
    torch.testing.assert_close(pooled[name], state[name].view(2, 8).mean(0))


@pytest.mark.parametrize(
    ("parent", "child", "message"),
    [
        (QWEN2, PLAIN, "arch.qkv_bias=false: the parent has biases of queries, keys and values and needs"),
        (PLAIN, QWEN2, "arch.qkv_bias=true: the parent has no biases of queries, keys and values; use arch.qkv_bias=false"),
        (QWEN3, PLAIN, "arch.qk_norm=false: the parent has norms of queries and keys and needs them; use"),
        (PLAIN, QWEN3, "arch.qk_norm=true: the parent has no norms of queries and keys; use arch.qk_norm=false"),
    ],
)
def test_a_child_of_another_kind_is_refused(parent: Shape, child: Shape, message: str) -> None:
    (mistake,) = check_shapes(parent, child)
    assert mistake.startswith(message)
    assert check_shapes(parent, parent) == []


def test_qwens_options_enter_the_identity_only_when_enabled(tmp_path: Path) -> None:
    from tests.helpers import TINY
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.settle import meaning, settle

    default, biased, normed = (
        settle(compose([*TINY, f"runs_dir={tmp_path}", *more])) for more in ([], ["arch.qkv_bias=true"], ["arch.qk_norm=true"])
    )
    assert not {"qkv_bias", "qk_norm"} & meaning(default)["shape"].keys()
    assert meaning(biased)["shape"] == meaning(default)["shape"] | {"qkv_bias": True}
    assert len({default.identity, biased.identity, normed.identity}) == 3
