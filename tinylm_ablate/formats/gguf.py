"""Weights and vocabulary of a GGUF file, for models of Llama's, Qwen2's or Qwen3's architecture.

GGUF names tensors in its own way. Of Llama it stores the rows of q and k in pairs of neighbours, (0, half), (1, half + 1), …,
where Hugging Face's layout has the first half of a head before the second. Quantised tensors are expanded when they are read.
The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read by the package ``gguf``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError

if TYPE_CHECKING:
    from gguf import GGUFReader

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
#: "general.architecture" -> what its blocks have beside Llama's.
_ARCHITECTURES: dict[str, dict[str, bool]] = {"llama": {}, "qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}


def read(path: Path) -> GGUFReader:
    """Open a GGUF file.

    Raises:
        UserError: It is no whole GGUF file, or the package is not installed.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(f"{path}: reading GGUF files needs a package; pip install gguf") from error
    try:
        return GGUFReader(path)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(f"{path}: not a whole GGUF file ({error}); copy it again") from error


def value(file: GGUFReader, key: str, default: Any = None) -> Any:
    """One entry of the file's metadata."""
    field = file.get_field(key)
    return default if field is None else field.contents()


def shape_of(file: GGUFReader, path: Path) -> Shape:
    """The shape that the metadata describes.

    Raises:
        UserError: An architecture or settings that the decoder does not have.
    """
    kind = value(file, "general.architecture")
    if kind not in _ARCHITECTURES:
        raise UserError(f"{path}: general.architecture is {kind!r}; allowed: {', '.join(_ARCHITECTURES)}")
    scaling = value(file, f"{kind}.rope.scaling.type", "none")
    names = {tensor.name for tensor in file.tensors}
    if scaling != "none" or "rope_freqs.weight" in names:
        raise UserError(f"{path}: its rotary embedding is scaled for long texts, which the decoder does not do")
    sizes = {
        name: value(file, f"{kind}.{key}")
        for name, key in (
            ("depth", "block_count"), ("width", "embedding_length"), ("ffn_width", "feed_forward_length"),
            ("heads", "attention.head_count"),
        )
    }  # fmt: skip
    embedding = next((tensor for tensor in file.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None or not all(isinstance(size, int) for size in sizes.values()):
        raise UserError(f"{path}: sizes are missing among its metadata: {sizes}")
    head_dim = int(value(file, f"{kind}.attention.key_length", sizes["width"] // sizes["heads"]))
    if value(file, f"{kind}.rope.dimension_count", head_dim) != head_dim:
        raise UserError(f"{path}: its rotary embedding turns a part of each head only, which the decoder does not do")
    try:
        return Shape(
            **sizes,
            kv_heads=int(value(file, f"{kind}.attention.head_count_kv", sizes["heads"])),
            head_dim=head_dim,
            vocab_size=int(embedding.shape[1]),
            tied="output.weight" not in names,
            rope_theta=float(value(file, f"{kind}.rope.freq_base", 10000.0)),
            norm_eps=_short(float(value(file, f"{kind}.attention.layer_norm_rms_epsilon", 1e-5))),
            **_ARCHITECTURES[kind],
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error


def _short(number: float) -> float:
    """The number that was meant: 1e-5 comes back from single precision as 9.999999747378752e-06."""
    return float(f"{number:.6g}")


class GgufState(Mapping[str, Tensor]):
    """The tensors of a GGUF file under Hugging Face's names, in single precision; each is expanded when it is asked for.

    Attributes:
        files: Tensor -> the file.
        sizes: Tensor -> its size.
    """

    def __init__(self, path: Path, file: GGUFReader) -> None:
        self._tensors = {_name(tensor.name): tensor for tensor in file.tensors}
        #: Whose rows stand in pairs, with the number of their heads.
        self._heads = (
            {
                "q_proj.weight": value(file, "llama.attention.head_count"),
                "k_proj.weight": value(file, "llama.attention.head_count_kv", value(file, "llama.attention.head_count")),
            }
            if value(file, "general.architecture") == "llama"
            else {}
        )
        self.files = dict.fromkeys(self._tensors, path)
        # GGUF counts dimensions from the innermost.
        self.sizes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> Tensor:
        from gguf import dequantize

        tensor = self._tensors[name]
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type), dtype=torch.float32).reshape(self.sizes[name])
        for end, heads in self._heads.items():
            if name.endswith(end):
                rows, columns = weight.shape
                weight = weight.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _name(name: str) -> str:
    """Hugging Face's name of a tensor; an unknown one keeps its own and is refused later."""
    block, _, rest = name.removeprefix("blk.").partition(".")
    part, _, kind = rest.rpartition(".")
    if name.startswith("blk.") and part in _PARTS:
        return f"model.layers.{block}.{_PARTS[part]}.{kind}"
    return _OUTER.get(name, name)
