"""The tokenizer of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint
from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
from tinylm_ablate.formats.gguf import value

if TYPE_CHECKING:
    from gguf import GGUFReader

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
#: ``tokenizer.ggml.pre``, llama.cpp's name of a rule -> how text is split before merging, words by GPT-2's pattern (ByteLevel).
SPLITS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTE_LEVEL],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTE_LEVEL],
}
#: What ``tokenizer.ggml.token_type`` says of an entry.
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4


def gguf_vocabulary(file: GGUFReader, path: Path) -> FolderVocabulary | None:
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
