"""Models in GGUF files with the architecture of Llama, Qwen2 or Qwen3.

GGUF has its own tensor names. For Llama, it interleaves the rows of q and k, (0, half), (1, half + 1), …, where Hugging Face's
layout has the first half of a head before the second. Quantized tensors are expanded when read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinylm_ablate.arch import rope
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.gguf_file import GgufFile
from tinylm_ablate.formats.model_config import read_shape

_OUTER = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_PARTS = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
ARCHITECTURES = ("llama", "qwen2", "qwen3")

#: Divisors of the frequencies in llama.cpp: the only trace of Llama 3's scaling in a file.
ROPE_FACTORS = "rope_freqs.weight"
#: LOW, HIGH and CONTEXT of that scaling in every published model; its FACTOR is the largest divisor.
_LLAMA3 = (1.0, 4.0, 8192.0)

#: Key of config.json -> key of the metadata after the architecture's name.
KEYS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
    "query_pre_attn_scalar": "attention.scale",
    "clip_qkv": "attention.clamp_kqv",
}


def shape_of(file: GgufFile) -> tuple[Shape, int | None]:
    """Return the shape in the metadata, and the size of its attention window, or None.

    Raises:
        UserError: The decoder does not support the architecture or its settings.
    """
    kind = file.value("general.architecture")
    if kind not in ARCHITECTURES:
        raise UserError(f"{file.path}: general.architecture is {kind!r:.60}; allowed: {', '.join(ARCHITECTURES)}")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.size) != 2:
        raise UserError(f"{file.path}: token_embd.weight is missing or not a matrix; copy the file again")
    names = {ours: f"{kind}.{theirs}" for ours, theirs in KEYS.items()}
    config = {ours: _plain(file.value(key)) for ours, key in names.items()}
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if config["head_dim"] is None and isinstance(width, int) and isinstance(heads, int) and heads:
        config["head_dim"] = width // heads
    for name in ("rms_norm_eps", "rope_theta"):
        if isinstance(config[name], float):
            config[name] = _short(config[name])
    config |= {
        "model_type": kind,
        "vocab_size": embedding.size[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "use_sliding_window": config["sliding_window"] is not None,
        "rope_parameters": _scaling(file, kind),
    }
    shape, window = read_shape(config, file.path, names)
    for key in ("attention.value_length", "rope.dimension_count"):
        if (found := _plain(file.value(f"{kind}.{key}", shape.head_dim))) != shape.head_dim:
            raise UserError(f"{file.path}: {kind}.{key} is {found!r:.60}; allowed: {shape.head_dim}, the whole head")
    return (_llama3(file, shape) if ROPE_FACTORS in file.tensors else shape), window


def _scaling(file: GgufFile, kind: str) -> dict[str, Any] | None:
    """Return the scaling of the rotary embedding as in config.json, except for Llama 3's, which is in a tensor."""
    name, factor = _plain(file.value(f"{kind}.rope.scaling.type", "none")), _plain(file.value(f"{kind}.rope.scaling.factor"))
    older = _plain(file.value(f"{kind}.rope.scale_linear", 1.0))
    if name in ("none", "linear") and older not in (0, 1):
        name, factor = "linear", older
    return None if name == "none" else {"rope_type": name, "factor": factor}


def _llama3(file: GgufFile, shape: Shape) -> Shape:
    """Return the shape with the scaling whose divisors are in the file.

    Raises:
        UserError: The divisors match no published model.
    """
    if file.tensors[ROPE_FACTORS].size == (shape.head_dim // 2,):
        divisors = torch.from_numpy(file.expanded(ROPE_FACTORS))
        if bool((divisors == 1).all()):
            return shape
        factor = float(divisors.max())
        if shape.rope_scaling == rope.NONE and 1 < factor < 1e6:
            scaled = replace(shape, rope_scaling=rope.scaling("llama3", factor, *_LLAMA3))
            if torch.allclose(rope_factors(scaled), divisors, rtol=1e-4):
                return scaled
    raise UserError(f"{file.path}: the divisors in {ROPE_FACTORS} are not those of Llama 3.1 to 3.3; allowed: those")


def rope_factors(shape: Shape) -> Tensor:
    """Return the divisor of each plain frequency of a shape, (head_dim / 2,)."""
    plain = rope.frequencies(shape.head_dim, shape.rope_theta)
    return plain / rope.frequencies(shape.head_dim, shape.rope_theta, shape.rope_scaling)


def _plain(value: Any) -> Any:
    """Convert a value of the metadata for JSON; of an array, only its first entries."""
    return value[:8].tolist() if isinstance(value, np.ndarray) else value


def _short(number: float) -> float:
    """Round to the intended number: 1e-5 in single precision is 9.999999747378752e-06."""
    return float(f"{number:.6g}")


class GgufState(Mapping[str, Tensor]):
    """The tensors of a GGUF file under Hugging Face's names, in single precision, expanded when read.

    Attributes:
        files: Tensor -> its file.
        sizes: Tensor -> its size.
    """

    def __init__(self, file: GgufFile, shape: Shape) -> None:
        self._file, self._shape = file, shape
        self._names = {_name(name): name for name in file.tensors if name != ROPE_FACTORS}
        self.files = dict.fromkeys(self._names, file.path)
        self.sizes = {name: file.tensors[theirs].size for name, theirs in self._names.items()}

    def __getitem__(self, name: str) -> Tensor:
        return paired_rows(name, torch.from_numpy(self._file.expanded(self._names[name])), self._shape, back=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def paired_rows(name: str, weight: Tensor, shape: Shape, *, back: bool = False) -> Tensor:
    """Reorder the rows of each head from Hugging Face's order to GGUF's, or ``back``; affects only Llama's q and k.

    Args:
        name: Hugging Face's name.
        weight: Any tensor of the model.
        shape: Shape of the model; Qwen2's and Qwen3's rows are not reordered.
        back: Whether to convert from GGUF's order.
    """
    if shape.qkv_bias or shape.qk_norm or not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weight
    sizes = (shape.head_dim // 2, 2) if back else (2, shape.head_dim // 2)
    return weight.reshape(-1, *sizes, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def gguf_name(name: str) -> str:
    """Convert Hugging Face's name of a tensor to GGUF's."""
    outer = {theirs: ours for ours, theirs in _OUTER.items()}
    if name in outer:
        return outer[name]
    _, _, layer, part, kind = (*name.split(".", 3)[:3], *name.split(".", 3)[3].rsplit(".", 1))
    return f"blk.{layer}.{ {theirs: ours for ours, theirs in _PARTS.items()}[part] }.{kind}"


def _name(name: str) -> str:
    """Convert a name to Hugging Face's; unknown names are kept, and refused later."""
    block, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.rpartition(".")
    if name.startswith("blk.") and part in _PARTS:
        return f"model.layers.{block}.{_PARTS[part]}.{kind}"
    return _OUTER.get(name, name)
