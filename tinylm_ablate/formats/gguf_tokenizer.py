"""Tokenizers in GGUF files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint
from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
from tinylm_ablate.formats.gguf_file import GgufFile
from tinylm_ablate.formats.ranks import gpt4_split
from tinylm_ablate.formats.tokenizer_json import check_lengths, open_state, read_tokenizer_json

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
#: ``tokenizer.ggml.pre``, llama.cpp's name of a pre-tokenization -> its steps; words by GPT-2's pattern (ByteLevel).
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    "llama-bpe": gpt4_split("{1,3}"),
    "qwen2": gpt4_split(""),
}
#: Values of ``tokenizer.ggml.token_type``.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
#: Key that may hold a complete tokenizer.json, which is exact where the other keys do not specify pre-tokenization.
HUGGINGFACE_TOKENIZER = "tokenizer.huggingface.json"


def gguf_vocabulary(file: GgufFile) -> FolderVocabulary | None:
    """Read the vocabulary of the file; None if it has none.

    Raises:
        UserError: The vocabulary is neither byte-level ("gpt2") nor SentencePiece's ("llama").
    """
    if (state := tokenizer_state(file)) is None:
        return None
    tokenizer = open_state(state, file.path)
    special = frozenset(token["id"] for token in state["added_tokens"] if token["special"])
    names, merges = list(state["model"]["vocab"]), state["model"]["merges"]
    identity = fingerprint({"names": names, "merges": merges, "special": sorted(special)})
    return FolderVocabulary(tokenizer, special, end_of_text(file), identity, encodes=state["pre_tokenizer"] is not None)


def rule_of(state: dict[str, Any]) -> str | None:
    """Return llama.cpp's name of the pre-tokenization of a byte-level tokenizer in exact form, or None."""

    def essence(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]

    first = state["pre_tokenizer"]
    steps = essence(first["pretokenizers"] if first["type"] == "Sequence" else [first])
    return next((rule for rule, known in SPLITS.items() if essence(known) == steps), None)


def end_of_text(file: GgufFile) -> int | None:
    """Return the id of the end-of-text token: "<|endoftext|>" if it exists, since chat models declare the end of a turn."""
    names = _list(file, "tokenizer.ggml.tokens", str)
    number = file.value("tokenizer.ggml.eos_token_id")
    if "<|endoftext|>" in names:
        return names.index("<|endoftext|>")
    return number if isinstance(number, int) and 0 <= number < len(names) else None


def tokenizer_state(file: GgufFile) -> dict[str, Any] | None:
    """Return the tokenizer in the format of tokenizer.json, or None if the file has none.

    The file does not describe pre-tokenization, but only names a rule (``tokenizer.ggml.pre``). Without one in ``SPLITS``,
    there is no pre-tokenizer, and the tokenizer must not be used to encode text.

    Raises:
        UserError: The vocabulary is neither byte-level ("gpt2") nor SentencePiece's ("llama"), or does not fit together.
    """
    if "tokenizer.ggml.tokens" not in file.metadata:
        return None
    if isinstance(whole := file.value(HUGGINGFACE_TOKENIZER), str):
        return read_tokenizer_json(whole, file.path)
    kind, names = file.value("tokenizer.ggml.model"), _list(file, "tokenizer.ggml.tokens", str)
    check_lengths(names, file.path)
    ids = {name: number for number, name in enumerate(names)}
    if kind == "gpt2":
        merges = [tuple(merge.split(" ", 1)) for merge in _list(file, "tokenizer.ggml.merges", str)]
        decoder = _BYTE_LEVEL
    elif kind == "llama":
        scores = _list(file, "tokenizer.ggml.scores", float)
        if len(scores) != len(names):
            raise UserError(
                f"{file.path}: tokenizer.ggml.scores has {len(scores):,} entries, but there are {len(names):,} tokens"
            )
        merges = _merges(ids, scores)
        decoder = {"type": "ByteFallback"}
    else:
        raise UserError(f"{file.path}: tokenizer.ggml.model is {kind!r:.60}; allowed: gpt2, llama")
    rule = file.value("tokenizer.ggml.pre")
    split = SPLITS.get(rule) if kind == "gpt2" and isinstance(rule, str) else None
    types = _list(file, "tokenizer.ggml.token_type", int)
    added = [
        {
            "id": number, "content": names[number], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": entry != _USER_DEFINED,
        }
        for number, entry in enumerate(types[: len(names)])
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


def _list(file: GgufFile, key: str, kind: type) -> list[Any]:
    """Return a list of the metadata, with entries of one type; empty if it is absent."""
    found = file.value(key, [])
    found = found.tolist() if isinstance(found, np.ndarray) else found
    if not isinstance(found, list) or not isinstance(found[0] if found else kind(), kind):
        raise UserError(f"{file.path}: {key} is not a list of {kind.__name__}; copy the file again")
    return found


def _merges(ids: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Return SentencePiece's merges: all pairs of entries that form an entry, better entries first."""
    ways = [
        (-scores[number], number, end, name)
        for name, number in ids.items()
        for end in range(1, len(name))
        if name[:end] in ids and name[end:] in ids
    ]
    return [(name[:end], name[end:]) for _, _, end, name in sorted(ways)]
