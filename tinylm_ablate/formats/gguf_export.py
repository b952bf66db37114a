"""Export of models with Llama's or Qwen's blocks as GGUF files, for llama.cpp and programs based on it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.arch import rope
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import sync_folder, unfinished
from tinylm_ablate.formats.alphabet import BYTE_PIECES
from tinylm_ablate.formats.gguf import KEYS, ROPE_FACTORS, gguf_name, paired_rows, rope_factors
from tinylm_ablate.formats.gguf_tokenizer import HUGGINGFACE_TOKENIZER, rule_of
from tinylm_ablate.formats.huggingface import Model, to_huggingface
from tinylm_ablate.formats.model_config import huggingface_config, model_type

if TYPE_CHECKING:
    from torch import Tensor

#: ``tokenizer.ggml.token_type`` of an entry.
_NORMAL, _CONTROL, _USER_DEFINED, _BYTE = 1, 3, 4, 6


def export_gguf(path: Path, model: Model, weights: str = "f16") -> list[str]:
    """Write a GGUF file atomically.

    Args:
        path: A file that does not exist yet.
        model: The model; its tokenizer's file is in the exact form of ``lossless``.
        weights: Type of the matrices: "f32", "f16", or blocks of 32 entries in 8 or 4 bits with a common scale, "q8_0" or
            "q4_0". Norms and biases are in single precision, and matrices whose rows are not a multiple of a block are in
            half precision.

    Returns:
        Notes on the file for users, one line each.

    Raises:
        UserError: llama.cpp does not support such blocks, the file exists, or the package ``gguf`` is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise UserError("export.format=gguf needs a package; pip install gguf") from error
    model.check_exportable("llama.cpp")
    if path.exists():
        raise UserError(f"{path}: exists already; choose a new file")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unfinished(path)
    try:
        writer = gguf.GGUFWriter(str(temporary), model_type(model.shape))
        _write_metadata(writer, model.shape, model.context_length)
        notes = _write_tokenizer(writer, model.tokenizer_json, model.end_of_text) if model.tokenizer_json else []
        notes += _write_tensors(writer, to_huggingface(model.state, model.shape), model.shape, weights)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return notes


def _write_metadata(writer: Any, shape: Shape, context_length: int) -> None:
    kind = model_type(shape)
    config = huggingface_config(shape, context_length, None)
    writer.add_uint32(f"{kind}.context_length", context_length)
    writer.add_uint32(f"{kind}.vocab_size", shape.vocab_size)
    for ours, theirs in KEYS.items():
        value = config.get(ours)
        if value is not None:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{kind}.{theirs}", value)
    writer.add_uint32(f"{kind}.attention.value_length", shape.head_dim)
    writer.add_uint32(f"{kind}.rope.dimension_count", shape.head_dim)
    scaling, numbers = rope.parse(shape.rope_scaling)
    if scaling == "linear":
        writer.add_string(f"{kind}.rope.scaling.type", "linear")
        writer.add_float32(f"{kind}.rope.scaling.factor", numbers[0])


def _write_tensors(writer: Any, tensors: Mapping[str, Tensor], shape: Shape, weights: str) -> list[str]:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType, quants

    wanted = GGMLQuantizationType[weights.upper()]
    block, _ = GGML_QUANT_SIZES[wanted]
    writer.add_file_type(LlamaFileType.ALL_F32 if weights == "f32" else LlamaFileType[f"MOSTLY_{weights.upper()}"])
    kinds: Counter[str] = Counter()
    for name, tensor in tensors.items():
        array = paired_rows(name, tensor.detach().float().cpu(), shape).contiguous().numpy()
        kind = GGMLQuantizationType.F32
        if array.ndim == 2:
            kind = wanted if array.shape[1] % block == 0 else GGMLQuantizationType.F16
            kinds[kind.name.lower()] += 1
        data = array if kind == GGMLQuantizationType.F32 else quants.quantize(array, kind)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
    if rope.parse(shape.rope_scaling)[0] == "llama3":
        writer.add_tensor(ROPE_FACTORS, rope_factors(shape).numpy())
    fallen = sum(count for kind, count in kinds.items() if kind != weights)
    if not fallen:
        return []
    return [
        f"{fallen} of {kinds.total()} matrices are in half precision, since their row lengths are not multiples of {block}, "
        f"the block size of {weights}"
    ]


def _write_tokenizer(writer: Any, tokenizer_json: Path, end_of_text: int | None) -> list[str]:
    content = tokenizer_json.read_text(encoding="utf-8")
    state = json.loads(content)
    model = state["model"]
    vocab: dict[str, int] = model["vocab"]
    added = {token["id"]: token for token in state["added_tokens"]}
    size = max([*vocab.values(), *added]) + 1
    names = {number: name for name, number in vocab.items()} | {number: token["content"] for number, token in added.items()}
    tokens = [names.get(number, f"[UNUSED{number}]") for number in range(size)]
    types = [_NORMAL if number in names else _CONTROL for number in range(size)]
    for number, token in added.items():
        types[number] = _CONTROL if token["special"] else _USER_DEFINED
    merges = [pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"]]
    notes = []
    if model["byte_fallback"]:
        for piece in BYTE_PIECES:
            types[vocab[piece]] = _BYTE
        ranks = {left + right: rank for rank, (left, right) in reversed(list(enumerate(merges)))}
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(ranks.get(token, len(merges))) for token in tokens])
        writer.add_add_space_prefix(any(part["type"] == "Prepend" for part in state["normalizer"]["normalizers"]))
    else:
        rule = rule_of(state)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(rule or "default")
        writer.add_token_merges([" ".join(pair) for pair in merges])
        if rule is None:
            notes.append(
                "llama.cpp does not support the pre-tokenization of this tokenizer, and uses its own: "
                "tokens may differ from those in training"
            )
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_string(HUGGINGFACE_TOKENIZER, content)
    if end_of_text is not None:
        writer.add_bos_token_id(end_of_text)
        writer.add_eos_token_id(end_of_text)
        writer.add_add_bos_token(True)  # a document follows the end of another
    return notes
