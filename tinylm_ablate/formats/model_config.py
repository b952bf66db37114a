"""A model's ``config.json``: to and from a shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.tensors import HEAD, tensor_sizes

#: Values of "model_type" whose blocks the decoder has, given that no tensor is left over, and what they have beside Llama's.
MODEL_TYPES: dict[str, dict[str, bool]] = {"llama": {}, "mistral": {}, "qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}

#: What a tensor that the decoder has no place for tells about the model.
_FOREIGN = {
    ".bias": "biases beside those of Qwen2's queries, keys and values, which the decoder does not have",
    "self_attn.q_norm.weight": "norms of queries and keys in a model of another type than qwen3",
    "self_attn.k_norm.weight": "norms of queries and keys in a model of another type than qwen3",
}

#: "model_type" of a shape with PanGu-pi's modules, and the settings that such a config.json has beside Llama's.
PANGU = "tinylm_pangu_pi"
_PANGU_SETTINGS = ("activations", "shortcuts", "shortcut_ratio")
_QWEN_SETTINGS = ("qkv_bias", "qk_norm")

#: "model_type" -> the class of transformers.
_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def model_type(shape: Shape) -> str:
    """The "model_type" of a shape: the one that other programs know its blocks by, or our own."""
    if not shape.is_llama:
        return PANGU
    return "qwen2" if shape.qkv_bias else "qwen3" if shape.qk_norm else "llama"


def huggingface_config(shape: Shape, context_length: int, end_of_text: int | None) -> dict[str, Any]:
    """The content of ``config.json``: Llama's or Qwen's, with PanGu-pi's settings beside it where the shape has them.

    Args:
        shape: The decoder.
        context_length: Tokens of a sequence in training.
        end_of_text: The id that stands behind each document, and so before the next.
    """
    kind = model_type(shape)
    config: dict[str, Any] = {
        "architectures": [_CLASSES[kind]] if kind in _CLASSES else None,
        "model_type": kind,
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.ffn_width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context_length,
        "rms_norm_eps": shape.norm_eps,
        # The first is read by transformers 5, the second by earlier ones and by other programs.
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "use_cache": True,
    }
    if kind == PANGU:
        config |= {name: getattr(shape, name) for name in (*_PANGU_SETTINGS, *_QWEN_SETTINGS)}
    return config


def shape_of_config(config: Mapping[str, Any], path: Path = Path("config.json")) -> Shape:
    """The shape that a ``config.json`` describes.

    Args:
        config: Its content.
        path: The file, for messages.

    Raises:
        UserError: It describes a model that our decoder cannot express; all reasons at once.
    """
    llama = {**config, "model_type": "llama"} if config.get("model_type") == PANGU else config
    biases = [
        f"{name} is true, and the decoder has no biases but those of Qwen2"
        for name in ("attention_bias", "mlp_bias")
        if config.get(name)
    ]
    try:
        shape, window = shape_of(llama, path)
    except UserError as error:
        raise UserError("; ".join([str(error), *biases])) from None
    if window is not None and window < config.get("max_position_embeddings", 0):
        biases.append(f"sliding_window is {window}, and the decoder looks back to the start")
    if biases:
        raise UserError(f"{path}: {'; '.join(biases)}")
    if llama is config:
        return shape
    activations, shortcuts, ratio = (int(config[name]) for name in _PANGU_SETTINGS)
    bias, norm = (bool(config.get(name)) for name in _QWEN_SETTINGS)
    return dataclasses.replace(
        shape, activations=activations, shortcuts=shortcuts, shortcut_ratio=ratio, qkv_bias=bias, qk_norm=norm
    )


def shape_of(config: Mapping[str, Any], path: Path) -> tuple[Shape, int | None]:
    """The shape that a Hugging Face ``config.json`` describes, and its sliding window.

    Args:
        config: Content of the file.
        path: The file, for messages.

    Raises:
        UserError: Another architecture, or settings that the decoder does not have; all of them at once.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(f"{path}: model_type is {kind!r}; allowed: {', '.join(MODEL_TYPES)}")
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    mistakes = [
        f"{key} is {value!r}, and the decoder knows only {only}"
        for key, value, only in (
            ("hidden_act", config.get("hidden_act", "silu"), "silu"),
            ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
            ("partial_rotary_factor", rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)), 1.0),
            ("quantization_config", config.get("quantization_config"), None),
        )
        if value != only
    ]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    sizes = [config.get(name) for name in names]
    mistakes += [f"{name} is {size!r}" for name, size in zip(names, sizes, strict=True) if not _is_size(size)]
    if mistakes:
        raise UserError(f"{path}: {'; '.join(mistakes)}")
    depth, width, ffn_width, heads, vocab_size = (int(size) for size in sizes if size is not None)
    try:
        shape = Shape(
            depth, width, ffn_width, heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or width // heads,
            vocab_size=vocab_size,
            tied=bool(config.get("tie_word_embeddings", False)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            **MODEL_TYPES[kind],
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    sliding = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return shape, int(sliding) if sliding else None


def check_tensors(sizes: Mapping[str, tuple[int, ...]], shape: Shape) -> list[str]:
    """What is missing, of another size, or without a place in the decoder."""
    wanted = tensor_sizes(shape)
    mistakes = []
    if missing := [name for name in wanted if name not in sizes]:
        mistakes.append(f"{len(missing)} tensors are missing, such as {missing[0]}")
    wrong = [name for name, size in wanted.items() if name in sizes and tuple(sizes[name]) != size]
    if wrong:
        mistakes.append(f"{wrong[0]} is {tuple(sizes[wrong[0]])}, and config.json says {wanted[wrong[0]]}")
    spare = {HEAD} if shape.tied else set()  # written by some programs for a tied model, and the same matrix
    foreign = [name for name in sizes if name not in wanted and name not in spare and not name.endswith("rotary_emb.inv_freq")]
    reasons = dict.fromkeys(
        next((reason for end, reason in _FOREIGN.items() if name.endswith(end)), f"an unknown tensor {name}")
        for name in foreign
    )
    return [*mistakes, *list(reasons)[:3]]


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
