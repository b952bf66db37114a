"""Conversion between a model's ``config.json`` and a shape.

All settings that change a model's function are either supported or refused with their key and value: sizes, epsilon, the
rotary embedding and its scaling, tying, biases, norms of queries and keys, a sliding window. Missing keys have the defaults of
transformers for the model's type.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.arch import rope
from tinylm_ablate.arch.shapes import OWN_BLOCKS, Shape
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.extension import TARGET, normal, part
from tinylm_ablate.files import canonical_json
from tinylm_ablate.formats.tensors import HEAD, tensor_sizes

#: "model_type" of a shape with PanGu-pi's modules.
PANGU = "tinylm_pangu_pi"


@dataclass(frozen=True)
class _Kind:
    """A "model_type" whose blocks the decoder supports.

    Attributes:
        own: Differences of its blocks from Llama's.
        class_name: The class of transformers, or None.
        kv_heads, head_dim, window: Defaults of missing keys; None: as many as heads, width / heads, and no window.
        windowed: Whether a sliding window is used if ``use_sliding_window`` is missing.
    """

    own: dict[str, bool]
    class_name: str | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    window: int | None = None
    windowed: bool = True


KINDS = {
    "llama": _Kind({}, "LlamaForCausalLM"),
    "mistral": _Kind({}, "MistralForCausalLM", kv_heads=8, window=4096),
    "qwen2": _Kind({"qkv_bias": True}, "Qwen2ForCausalLM", kv_heads=32, window=4096, windowed=False),
    "qwen3": _Kind({"qk_norm": True}, "Qwen3ForCausalLM", kv_heads=32, head_dim=128, window=4096, windowed=False),
    PANGU: _Kind({}),
}

#: Keys of config.json that change a model's function, with the values that the decoder supports; they may also be missing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "partial_rotary_factor": (1,),
    "attn_logit_softcapping": (),
    "final_logit_softcapping": (),
    "query_pre_attn_scalar": (),
    "embedding_multiplier": (1,),
    "residual_multiplier": (1,),
    "logits_scaling": (1,),
    "logit_scale": (1,),
    "scale_emb": (1,),
    "scale_depth": (),
    "clip_qkv": (),
    "no_rope_layers": (),
    "quantization_config": (),
}

#: Key of config.json -> field of ``Shape`` and maximum, far above that of any model.
_SIZES = {
    "num_hidden_layers": ("depth", 10_000),
    "hidden_size": ("width", 2**20),
    "intermediate_size": ("ffn_width", 2**22),
    "num_attention_heads": ("heads", 2**16),
    "vocab_size": ("vocab_size", 2**24),
}
_MOST_HEAD_DIM = 2**16

#: A number of a scaling of the rotary embedding (``arch.rope``) -> its key in config.json.
_SCALING_KEYS = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "context": "original_max_position_embeddings",
}

#: Explanations of tensors that the decoder does not have.
_FOREIGN = {
    ".bias": "biases other than those of Qwen2's queries, keys and values, which the decoder does not support",
    "self_attn.q_norm.weight": "norms of queries and keys in a model of another type than qwen3",
    "self_attn.k_norm.weight": "norms of queries and keys in a model of another type than qwen3",
}


def model_type(shape: Shape) -> str:
    """Return the "model_type" of a shape: that of other programs with the same blocks, or our own."""
    if not shape.is_llama:
        return PANGU
    return "qwen2" if shape.qkv_bias else "qwen3" if shape.qk_norm else "llama"


def huggingface_config(shape: Shape, context_length: int, end_of_text: int | None) -> dict[str, Any]:
    """Return the content of ``config.json``: Llama's or Qwen's, with PanGu-pi's settings if the shape has them.

    Args:
        shape: The decoder.
        context_length: Tokens per sequence in training.
        end_of_text: The id after each document, and so before the next.
    """
    kind = model_type(shape)
    scaling, numbers = rope.parse(shape.rope_scaling)
    scaled: dict[str, Any] = {
        _SCALING_KEYS[name]: int(number) if name == "context" else number
        for name, number in zip(rope.KINDS.get(scaling, ()), numbers, strict=True)
    }
    config: dict[str, Any] = {
        "architectures": None if KINDS[kind].class_name is None else [KINDS[kind].class_name],
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
        # The first is read by transformers 5, the others by earlier versions and by other programs.
        "rope_parameters": {
            "rope_type": scaling if scaled else "default", "rope_theta": shape.rope_theta, **scaled,
        },
        "rope_theta": shape.rope_theta,
        "rope_scaling": {"rope_type": scaling, **scaled} if scaled else None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": shape.tied,
        "bos_token_id": end_of_text,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "use_cache": True,
    }  # fmt: skip
    if kind == PANGU:
        own = ("activations", "shortcuts", "shortcut_ratio", "qkv_bias", "qk_norm")
        config |= {name: getattr(shape, name) for name in own}
        config |= {name: json.loads(text) for name in OWN_BLOCKS if (text := getattr(shape, name))}
    return config


def read_shape(
    config: Mapping[str, Any], path: Path = Path("config.json"), names: Mapping[str, str] | None = None
) -> tuple[Shape, int | None]:
    """Return the shape in a ``config.json``, and the size of its attention window, or None.

    Args:
        config: Content of the file.
        path: The file, for messages.
        names: The file's names of the keys, for messages, if it is not a config.json.

    Raises:
        UserError: The decoder does not support the model; the message has all reasons, each with its key and value.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in KINDS:
        public = ", ".join(name for name in KINDS if name != PANGU)
        raise UserError(f"{path}: model_type is {_shown(kind)}; allowed: {public}")
    reader = _Reader(config, names or {})
    sizes = {field: reader.size(key, most=most) for key, (field, most) in _SIZES.items()}
    heads, width = sizes["heads"], sizes["width"]
    kv_default = KINDS[kind].kv_heads if "num_key_value_heads" not in config else None
    kv_heads = reader.size("num_key_value_heads", most=2**16, default=kv_default or heads)
    head_dim = reader.size("head_dim", most=_MOST_HEAD_DIM, default=KINDS[kind].head_dim or max(1, width // heads))
    own: dict[str, Any] = dict(KINDS[kind].own)
    if kind == PANGU:
        own = {"activations": reader.size("activations", most=64), "shortcut_ratio": reader.size("shortcut_ratio", most=2**20)}
        own["shortcuts"] = reader.size("shortcuts", most=64, least=0)
        own |= {name: reader.flag(name) for name in ("qkv_bias", "qk_norm")}
        own |= reader.own_blocks()
    tied, eps = reader.flag("tie_word_embeddings"), reader.number("rms_norm_eps", 1e-6, most=1.0)
    theta, scaling = reader.rotary()
    window = reader.window(KINDS[kind])
    # Qwen2's queries, keys and values have biases whatever "attention_bias" is.
    reader.check_neutral(skip="attention_bias" if kind == "qwen2" else None)
    if reader.mistakes:
        raise UserError(f"{path}: {'; '.join(reader.mistakes)}")
    try:
        shape = Shape(
            sizes["depth"], width, sizes["ffn_width"], heads, kv_heads, head_dim, sizes["vocab_size"],
            tied=tied, rope_theta=theta, rope_scaling=scaling, norm_eps=eps, **own,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return shape, window


class _Reader:
    """Typed values of a ``config.json``, and the mistakes found."""

    def __init__(self, config: Mapping[str, Any], names: Mapping[str, str]) -> None:
        self.config, self.names = config, names
        self.mistakes: list[str] = []

    def mistake(self, key: str, value: object, allowed: str) -> None:
        self.mistakes.append(f"{self.names.get(key, key)} is {_shown(value)}; allowed: {allowed}")

    def size(self, key: str, *, most: int, default: int | None = None, least: int = 1) -> int:
        """Read a whole number; 1 if it is a mistake."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        self.mistake(key, value, f"{least} to {most:,}")
        return 1

    def number(self, key: str, default: float, *, most: float, within: Mapping[str, Any] | None = None) -> float:
        """Read a finite number above 0; ``default`` if it is missing or a mistake."""
        value = (self.config if within is None else within).get(key)
        if value is None:
            return default
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most:
            return float(value)
        self.mistake(key, value, f"a number above 0, at most {most:g}")
        return default

    def flag(self, key: str) -> bool:
        value = self.config.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        self.mistake(key, value, "true, false")
        return False

    def own_blocks(self) -> dict[str, str]:
        """Read user-defined blocks. A file never imports anything: their module must be imported already."""
        found = {}
        for name in OWN_BLOCKS:
            described = self.config.get(name)
            if described is None:
                continue
            target = described.get(TARGET) if isinstance(described, dict) else None
            module = target.rpartition(".")[0] if isinstance(target, str) else ""
            if module not in sys.modules:
                self.mistake(name, described, f"a class whose module is imported: name it, as in arch.{name}={{{TARGET}: …}}")
                continue
            try:
                part(described, f"arch.{name}", OWN_BLOCKS[name])
                found[name] = canonical_json(normal(described, f"arch.{name}"))
            except ConfigError as error:
                self.mistakes += error.mistakes
        return found

    def rotary(self) -> tuple[float, str]:
        """Read base and scaling of the rotary embedding; "rope_scaling", the older key, takes precedence."""
        key = next((key for key in ("rope_scaling", "rope_parameters") if self.config.get(key)), "rope_parameters")
        given = self.config.get(key) or {}
        if not isinstance(given, dict):
            self.mistake(key, given, "an object, null")
            given = {}
        outside = self.number("rope_theta", 10000.0, most=1e15)
        theta = self.number("rope_theta", outside, most=1e15, within=given)
        if (share := given.get("partial_rotary_factor", 1)) != 1:
            self.mistake(f"{key}.partial_rotary_factor", share, "1")
        kind = given.get("rope_type", given.get("type", "default"))
        if kind in ("default", None):
            return theta, rope.NONE
        if not isinstance(kind, str) or kind not in rope.KINDS:
            self.mistake(f"{key}.rope_type", kind, ", ".join(["default", *rope.KINDS]))
            return theta, rope.NONE
        before = len(self.mistakes)
        context = self.config.get("original_max_position_embeddings", self.config.get("max_position_embeddings"))
        given = {"original_max_position_embeddings": context, **given}
        numbers = [self.number(_SCALING_KEYS[name], math.nan, most=1e15, within=given) for name in rope.KINDS[kind]]
        absent = [_SCALING_KEYS[name] for name, number in zip(rope.KINDS[kind], numbers, strict=True) if math.isnan(number)]
        if len(self.mistakes) > before:
            return theta, rope.NONE
        if absent:
            self.mistakes += [f"{key}.{name} is missing for rope_type={kind}" for name in absent]
            return theta, rope.NONE
        try:
            return theta, rope.scaling(kind, *numbers)
        except ValueError as error:
            self.mistakes.append(f"{key}: {error}")
            return theta, rope.NONE

    def window(self, kind: _Kind) -> int | None:
        """Read the size of the sliding window; None without one."""
        if "sliding_window" in self.config and self.config["sliding_window"] is None:
            return None
        if not (self.flag("use_sliding_window") if "use_sliding_window" in self.config else kind.windowed):
            return None
        types = self.config.get("layer_types")
        if isinstance(types, list) and "sliding_attention" not in types:
            return None
        if kind.window is None and "sliding_window" not in self.config:
            return None
        return self.size("sliding_window", most=2**31, default=kind.window)

    def check_neutral(self, skip: str | None) -> None:
        for key, neutral in _NEUTRAL.items():
            value = self.config.get(key)
            if key != skip and value is not None and not any(value == allowed for allowed in neutral):
                self.mistake(key, value, ", ".join([*(json_word(allowed) for allowed in neutral), "absent"]))
        types = self.config.get("layer_types")
        if types is not None and not (
            isinstance(types, list) and all(t in ("full_attention", "sliding_attention") for t in types)
        ):
            self.mistake("layer_types", types, "full_attention and sliding_attention")


def json_word(value: object) -> str:
    """Format a plain value as JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: object) -> str:
    """Format a value of a file for a message, shortened if it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # integers with thousands of digits cannot be formatted
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_tensors(sizes: Mapping[str, tuple[int, ...]], shape: Shape) -> list[str]:
    """List tensors that are missing, unexpected, or of another size."""
    if shape.depth > len(sizes):
        return [f"num_hidden_layers is {shape.depth}, but the files have {len(sizes)} tensors"]
    wanted = tensor_sizes(shape)
    mistakes = []
    if missing := [name for name in wanted if name not in sizes]:
        mistakes.append(f"{len(missing)} tensors are missing, such as {missing[0]}")
    wrong = [name for name, size in wanted.items() if name in sizes and tuple(sizes[name]) != size]
    if wrong:
        mistakes.append(f"{wrong[0]} is {tuple(sizes[wrong[0]])}, but config.json says {wanted[wrong[0]]}")
    spare = {HEAD} if shape.tied else set()  # some programs write a copy for a tied model
    foreign = [name for name in sizes if name not in wanted and name not in spare and not name.endswith("rotary_emb.inv_freq")]
    reasons = dict.fromkeys(
        next((reason for end, reason in _FOREIGN.items() if name.endswith(end)), f"an unknown tensor {name}")
        for name in foreign
    )
    return [*mistakes, *list(reasons)[:3]]
