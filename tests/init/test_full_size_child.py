"""A child with its parent's size computes the same function, for every architecture that can be inherited from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape, parameters, resolve
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.formats.huggingface import Model, save, take_decoder
from tinylm_ablate.formats.model_config import KINDS, PANGU, huggingface_config, read_shape
from tinylm_ablate.init.inherit import inherit
from tinylm_ablate.init.parents import Parent, check_parent, open_parent

transformers = pytest.importorskip("transformers")

SIZES = {
    "num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2,
    "vocab_size": 300, "max_position_embeddings": 4096,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16, "rope_theta": 500000.0}  # fmt: skip
MILLION = {"rope_type": "default", "rope_theta": 1e6}
#: Name -> class and settings, which differ from our defaults.
PARENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rms_norm_eps": 1e-3}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-6}),
    "llama 3": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}}),
    "llama, wide heads": ("Llama", {"head_dim": 16}),
    "mistral": ("Mistral", {"rms_norm_eps": 1e-4, "sliding_window": None, "rope_parameters": MILLION}),
    "mistral, wide heads": ("Mistral", {"head_dim": 12, "sliding_window": 4096}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True, "rope_parameters": MILLION}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True, "rms_norm_eps": 1e-2}),
}  # fmt: skip


def test_every_architecture_is_here() -> None:
    assert {kind.lower() for kind, _ in PARENTS.values()} == KINDS.keys() - {PANGU}


def tokenizer() -> Tokenizer:
    """A tokenizer of bytes, and numbered entries without merges, up to 300."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*letters, *(f"<{number}>" for number in range(300 - len(letters) - 1)), "<|endoftext|>"]
    made = Tokenizer(models.BPE(vocab={name: number for number, name in enumerate(names)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>"])
    return made


def saved(folder: Path, kind: str, settings: dict[str, Any]) -> Any:
    """A model of transformers with random weights, biases and norms, and its folder."""
    config = getattr(transformers, f"{kind}Config")(**SIZES | settings, bos_token_id=None, eos_token_id=299, pad_token_id=None)
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.1 if parameter.dim() > 1 else 0.3) + ("norm" in name))
    model.save_pretrained(folder)
    tokenizer().save(str(folder / "tokenizer.json"))
    return model


def full_size(parent: Parent, compose: Callable[[list[str]], Config], *changes: str) -> Config:
    """Return a config with the parent's depth, width and FFN width, and no other setting of its shape."""
    shape = parent.shape
    sizes = [f"arch.depth={shape.depth}", f"arch.width={shape.width}", f"arch.ffn_width={shape.ffn_width}"]
    return compose([*sizes, "init=inherit", f"init.parent={parent.folder}", "init.std=0.02", *changes])


def child_logits(parent: Parent, config: Config, tokens: torch.Tensor) -> torch.Tensor:
    shape = resolve(config.arch, config.scale, parent.shape.vocab_size, parent.shape)
    assert check_parent(parent, shape, 64) == []
    assert parent.vocabulary is not None
    state, _ = inherit(parent, shape, parent.vocabulary, config.init, seed=0)
    with torch.no_grad():
        logits: torch.Tensor = take_decoder(state, shape)(tokens)
    return logits


@pytest.mark.parametrize("name", PARENTS)
def test_a_full_size_child_is_its_parent(name: str, tmp_path: Path, compose: Callable[[list[str]], Config]) -> None:
    model = saved(tmp_path / "parent", *PARENTS[name])
    parent = open_parent(str(tmp_path / "parent"), tmp_path)
    tokens = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(tokens).logits
    config = full_size(parent, compose)
    torch.testing.assert_close(child_logits(parent, config, tokens), expected, atol=1e-5, rtol=1e-5)
    shape = resolve(config.arch, config.scale, 300, parent.shape)
    assert shape == parent.shape
    assert parameters(shape)["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert read_shape(huggingface_config(shape, 64, None))[0] == shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("arch.norm_eps=1e-5", "arch.norm_eps=1e-05: the parent was trained with 0.01"),
        ("arch.rope_theta=500", "arch.rope_theta=500.0: the parent was trained with 10000.0"),
        ("arch.rope_scaling=linear/4", "arch.rope_scaling=linear/4: the parent was trained with none"),
        ("arch.qk_norm=false", "arch.qk_norm=false: the parent has norms of queries and keys"),
        ("arch.head_dim=8", "arch.head_dim=8: heads are inherited whole"),
    ],
)  # fmt: skip
def test_another_function_is_refused(change: str, message: str, tmp_path: Path, compose: Callable[[list[str]], Config]) -> None:
    saved(tmp_path / "parent", *PARENTS["qwen3"])
    parent = open_parent(str(tmp_path / "parent"), tmp_path)
    config = full_size(parent, compose, change)
    shape = resolve(config.arch, config.scale, 300, parent.shape)
    assert any(message in mistake for mistake in check_parent(parent, shape))


def test_heads_scale_with_the_width_in_the_parents_proportion(compose: Callable[[list[str]], Config]) -> None:
    """Qwen3-0.6B has 16 heads of 128 channels at width 1024, and 8 key-value heads."""
    values = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
    values |= {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
    qwen, _ = read_shape({"model_type": "qwen3", "tie_word_embeddings": True, "rope_theta": 1e6, **values})
    arch = ["arch.depth=28", "arch.width=1024", "arch.ffn_width=3072"]

    def shape_for(*changes: str) -> Any:
        config = compose([*arch, *changes])
        return resolve(config.arch, config.scale, 151936, qwen)

    assert shape_for() == qwen
    assert parameters(shape_for())["total"] == 596_049_920
    half = shape_for("arch.width=512")
    assert (half.heads, half.kv_heads, half.head_dim) == (8, 4, 128)
    set_ = shape_for("arch.width=1000", "arch.heads=10", "arch.kv_heads=5")
    assert (set_.width, set_.heads, set_.kv_heads, set_.head_dim) == (1000, 10, 5, 128)
    with pytest.raises(ConfigError, match=r"arch.width=1000: 1000 channels are not whole heads.*arch.heads=N"):
        shape_for("arch.width=1000")
    by_budget = shape_for("arch.width=auto", "arch.parameters=200_000_000", "arch.ffn_width=auto", "arch.heads=4")
    assert parameters(by_budget)["total"] == pytest.approx(200_000_000, rel=0.01)
    # Without a parent, setting the heads does not determine the width.
    config = compose(["arch.heads=3", "arch.head_dim=16", "arch.width=50", "arch.depth=2"])
    assert dataclasses.astuple(resolve(config.arch, config.scale, 1500))[:6] == (2, 50, 136, 3, 3, 16)


def test_pangus_modules_initially_compute_llamas_function(tmp_path: Path, compose: Callable[[list[str]], Config]) -> None:
    model = saved(tmp_path / "parent", *PARENTS["llama"])
    parent = open_parent(str(tmp_path / "parent"), tmp_path)
    tokens = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(tokens).logits
    config = full_size(parent, compose, "arch=pangu_pi")
    assert (config.arch.activations, config.arch.shortcuts) == (2, 1)
    torch.testing.assert_close(child_logits(parent, config, tokens), expected, atol=1e-5, rtol=1e-5)
    # The child's additional modules learn from the first step on.
    shape = resolve(config.arch, config.scale, 300, parent.shape)
    assert parent.vocabulary is not None
    decoder = take_decoder(inherit(parent, shape, parent.vocabulary, config.init, seed=0)[0], shape)
    decoder.loss(tokens[:, :-1], tokens[:, 1:]).backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: weight.grad for name, weight in decoder.named_parameters() if "shortcuts.up" in name or "ffn.act" in name
    }
    assert len(gradients) == 9
    assert all(gradient is not None and bool((gradient != 0).any()) for gradient in gradients.values())


@pytest.mark.parametrize("method", ["inherit", "pool"])
def test_a_parent_with_pangus_modules_is_kept_completely(
    method: str, tmp_path: Path, compose: Callable[[list[str]], Config]
) -> None:
    shape = Shape(2, 48, 80, 6, 6, 8, 300, activations=2, shortcuts=1, shortcut_ratio=8)
    torch.manual_seed(0)
    decoder = Decoder(shape)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.dim() == 1))
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    save(tmp_path / "parent", Model(decoder.state_dict(), decoder.shape, tmp_path / "tokenizer.json", 64, 299))
    parent = open_parent(str(tmp_path / "parent"), tmp_path)
    assert parent.shape == shape
    tokens = torch.randint(0, 300, (2, 64), generator=torch.Generator().manual_seed(1))
    config = full_size(parent, compose, "arch=pangu_pi", "arch.shortcut_ratio=8", f"init={method}")
    with torch.no_grad():
        torch.testing.assert_close(child_logits(parent, config, tokens), decoder(tokens), atol=1e-5, rtol=1e-5)
