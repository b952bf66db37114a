"""Tokenizers stored with a model's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.files import read_json, sha256_file
from tinylm_ablate.formats.json_file import read_bytes

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class FolderVocabulary:
    """Vocabulary of a model's file or folder.

    Attributes:
        tokenizer: The tokenizer.
        special_ids: Its special tokens.
        end_of_text: The token that ends a text.
        fingerprint: Its identity.
        source_ids: Entry -> its id in the vocabulary that this one was cut from.
        encodes: Whether it is complete. Otherwise, it can only match rows: encoding would give other tokens than in training.
    """

    tokenizer: Tokenizer
    special_ids: frozenset[int]
    end_of_text: int | None
    fingerprint: str
    source_ids: np.ndarray | None = None
    encodes: bool = True

    @property
    def size(self) -> int:
        """The largest id plus one."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @classmethod
    def read(cls, folder: Path) -> FolderVocabulary | None:
        """Read the vocabulary in ``folder``; None without a ``tokenizer.json``."""
        from tinylm_ablate.formats.tokenizer_json import open_json

        path = folder / "tokenizer.json"
        if not path.is_file():
            return None
        tokenizer = open_json(read_bytes(path), path)
        special = frozenset(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)
        return cls(tokenizer, special, _end_of_text(folder, tokenizer), sha256_file(path)[:16])


def _end_of_text(folder: Path, tokenizer: Tokenizer) -> int | None:
    """Find the id of the end-of-text token: in our own record, by name in tokenizer_config.json, or in config.json."""
    if isinstance(own := read_json(folder / "vocabulary.json").get("end_of_text"), int):
        return own
    name = read_json(folder / "tokenizer_config.json").get("eos_token")
    name = name.get("content") if isinstance(name, dict) else name
    if isinstance(name, str) and (number := tokenizer.token_to_id(name)) is not None:
        return number
    number = read_json(folder / "config.json").get("eos_token_id")
    number = number[0] if isinstance(number, list) and number else number
    return number if isinstance(number, int) else None
