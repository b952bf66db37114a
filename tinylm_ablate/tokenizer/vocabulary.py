"""A vocabulary: text to ids and back, with a record of its origin."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import sha256_file, write_atomic
from tinylm_ablate.formats.lossless import State, open_tokenizer

_TOKENIZER, _RECORD, _SOURCE_IDS = "tokenizer.json", "vocabulary.json", "source_ids.npy"


class Vocabulary:
    """The tokenizer of a run, opened from its folder.

    Special tokens in a text are encoded as text: only the program inserts special tokens, between documents. Decoding an
    encoded text always restores it.

    Attributes:
        folder: Folder with tokenizer.json, vocabulary.json and, for a compact vocabulary, source_ids.npy.
        fingerprint: Identity of settings and corpus.
        tokenizer: The tokenizer of the Hugging Face library.
        size: Rows that an embedding needs; all ids are smaller.
        end_of_text: The id at the end of each document.
        special_ids: Ids that encoding never produces, including end-of-text.
        summary: kind, source, vocab_size, source_vocab_size, special_tokens, bytes_per_token by language,
            accumulated_frequency_percent.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder written by ``write_vocabulary``.

        Raises:
            UserError: The folder is missing or damaged.
        """
        self.folder = Path(folder)
        try:
            state = json.loads((self.folder / _TOKENIZER).read_text(encoding="utf-8"))
            record = json.loads((self.folder / _RECORD).read_text(encoding="utf-8"))
            self.tokenizer: Tokenizer = open_tokenizer(state)
            self.fingerprint: str = record["fingerprint"]
            self.end_of_text: int = record["end_of_text"]
            self.size: int = record["size"]
            self.summary: dict[str, Any] = record["summary"]
        except Exception as error:  # the library raises bare exceptions
            raise UserError(
                f"{self.folder}: is not a vocabulary ({type(error).__name__}: {error}); delete the folder to build it again"
            ) from error
        self.special_ids = frozenset(token["id"] for token in state["added_tokens"] if token["special"])

    def encode(self, text: str) -> list[int]:
        """Encode a text to ids, none of them special."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts on all cores."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids; special tokens are spelled out, and bytes of incomplete characters become U+FFFD."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    @functools.cached_property
    def state(self) -> State:
        """The tokenizer in the format of tokenizer.json."""
        return dict(json.loads((self.folder / _TOKENIZER).read_text(encoding="utf-8")))

    @functools.cached_property
    def source_ids(self) -> np.ndarray | None:
        """For each id, its id in the larger tokenizer that the vocabulary was cut from: shape (size,), int64."""
        path = self.folder / _SOURCE_IDS
        return np.load(path, allow_pickle=False) if path.exists() else None


def write_vocabulary(
    folder: Path,
    state: State,
    end_of_text: str,
    fingerprint: str,
    summary: dict[str, Any],
    source_ids: np.ndarray | None = None,
) -> Vocabulary:
    """Write a tokenizer in exact form to a folder and open it.

    Other programs can read ``tokenizer.json``: ``PreTrainedTokenizerFast(tokenizer_file=...)`` gives the same ids for any text
    without special tokens.
    """
    vocab = state["model"]["vocab"]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / _TOKENIZER, json.dumps(state, ensure_ascii=False))
    if source_ids is not None:
        np.save(folder / _SOURCE_IDS, source_ids, allow_pickle=False)
    record = {
        "fingerprint": fingerprint,
        "end_of_text": vocab[end_of_text],
        "size": max(vocab.values()) + 1,
        "summary": summary,
        "files": {name: sha256_file(folder / name) for name in (_TOKENIZER, _SOURCE_IDS) if (folder / name).exists()},
    }
    write_atomic(folder / _RECORD, json.dumps(record, ensure_ascii=False, indent=1))
    return Vocabulary(folder)


def is_whole(folder: Path) -> bool:
    """Return whether a folder has all files of ``write_vocabulary``, unchanged."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return all(sha256_file(folder / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
