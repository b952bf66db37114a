"""The tokenizer of a GGUF file."""

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
#: ``tokenizer.ggml.pre``, llama.cpp's name of a rule -> how text is split before merging, words by GPT-2's pattern (ByteLevel).
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
    "llama-bpe": gpt4_split("{1,3}"),
    "qwen2": gpt4_split(""),
}
#: What ``tokenizer.ggml.token_type`` says of an entry.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
#: The key under which the whole tokenizer.json may stand, which is exact where the other keys leave open how text is split.
HUGGINGFACE_TOKENIZER = "tokenizer.huggingface.json"


def gguf_vocabulary(file: GgufFile) -> FolderVocabulary | None:
    """The vocabulary of the file, or None if it holds none.

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
    """llama.cpp's name of the rule by which a byte-level tokenizer in the exact form splits text, or None."""

    def essence(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]

    first = state["pre_tokenizer"]
    steps = essence(first["pretokenizers"] if first["type"] == "Sequence" else [first])
    return next((rule for rule, known in SPLITS.items() if essence(known) == steps), None)


def end_of_text(file: GgufFile) -> int | None:
    """The id of the token that ends a text: "<|endoftext|>" where there is one, since chat models name the end of a turn."""
    names = _list(file, "tokenizer.ggml.tokens", str)
    number = file.value("tokenizer.ggml.eos_token_id")
    if "<|endoftext|>" in names:
        return names.index("<|endoftext|>")
    return number if isinstance(number, int) and 0 <= number < len(names) else None


def tokenizer_state(file: GgufFile) -> dict[str, Any] | None:
    """The tokenizer in the layout of a tokenizer.json, or None if the file holds none.

    How text is split into words before merging is not in the file, which names a rule only (``tokenizer.ggml.pre``). Without
    one in ``SPLITS`` there is no pre-tokenizer, and the tokenizer is not for encoding text.

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
                f"{file.path}: tokenizer.ggml.scores has {len(scores):,} entries, and there are {len(names):,} tokens"
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
    """A list of the metadata, empty where it is absent; its entries are all of one kind."""
    found = file.value(key, [])
    found = found.tolist() if isinstance(found, np.ndarray) else found
    if not isinstance(found, list) or not isinstance(found[0] if found else kind(), kind):
        raise UserError(f"{file.path}: {key} is no list of {kind.__name__}; copy the file again")
    return found


def _merges(ids: Mapping[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece's merges: every way to make an entry of two others, better entries first."""
    ways = [
        (-scores[number], number, end, name)
        for name, number in ids.items()
        for end in range(1, len(name))
        if name[:end] in ids and name[end:] in ids
    ]
    return [(name[:end], name[end:]) for _, _, end, name in sorted(ways)]
