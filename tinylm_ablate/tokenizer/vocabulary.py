"""A finished vocabulary: text to ids and back, with the record of how it was made."""

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

    Text that spells a special token is encoded as text: only the program puts special tokens between documents. Decoding
    what was encoded gives the text back, whatever it is.

    Attributes:
        folder: Where it lies: tokenizer.json, vocabulary.json and, of a cut vocabulary, source_ids.npy.
        fingerprint: Its identity: equal for the same making from the same text.
        tokenizer: The tokenizer of the Hugging Face library.
        size: Rows that an embedding needs; ids are below it.
        end_of_text: The id at the end of each document.
        special_ids: The ids that no text is encoded to, end-of-text among them.
        summary: kind, source, vocab_size, source_vocab_size, special_tokens, bytes_per_token by language,
            accumulated_frequency_percent.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder that ``write_vocabulary`` made.

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
                f"{self.folder}: is no vocabulary ({type(error).__name__}: {error}); delete the folder to have it made again"
            ) from error
        self.special_ids = frozenset(token["id"] for token in state["added_tokens"] if token["special"])

    def encode(self, text: str) -> list[int]:
        """The ids of a text, none of them special."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of many texts, on all cores."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are spelled out, and bytes that make no whole character become U+FFFD."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    @functools.cached_property
    def state(self) -> State:
        """The tokenizer in the layout of a tokenizer.json."""
        return dict(json.loads((self.folder / _TOKENIZER).read_text(encoding="utf-8")))

    @functools.cached_property
    def source_ids(self) -> np.ndarray | None:
        """For each id, the id in the larger tokenizer that the vocabulary was cut from: shape (size,), int64."""
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
    """Put a tokenizer in exact form into a folder and open it.

    ``tokenizer.json`` is the file that other programs read: ``PreTrainedTokenizerFast(tokenizer_file=...)`` gives the
    same ids for any text that spells no special token.
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
    """Return whether a folder holds all that ``write_vocabulary`` wrote, unchanged."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return all(sha256_file(folder / name) == digest for name, digest in record["files"].items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
