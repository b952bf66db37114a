"""Rows of embedding and head for a child whose vocabulary differs from its parent's.

An entry that the parent also has (as all entries of a compact vocabulary) takes the parent's row. Any other entry takes the
mean of the rows of the pieces into which the parent would split its text, as in fast vocabulary transfer (Gee et al. 2022,
EMNLP Industry). Entries that the parent cannot encode, and special tokens without a counterpart, are drawn at random.
Entries are compared by their bytes, so that byte-level and SentencePiece-like tokenizers match.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from tinylm_ablate.formats.alphabet import BYTE_PIECES, SPACE, byte_characters, byte_values

if TYPE_CHECKING:
    from tokenizers import Tokenizer


_BYTES = {piece: byte for byte, piece in enumerate(BYTE_PIECES)}


class Entries(Protocol):
    """Interface of a vocabulary that this module needs; ``tinylm_ablate.tokenizer.vocabulary.Vocabulary`` implements it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the Hugging Face library."""

    @property
    def size(self) -> int:
        """Rows that an embedding needs."""

    @property
    def special_ids(self) -> Collection[int]:
        """Ids that encoding never produces."""

    @property
    def end_of_text(self) -> int | None:
        """The id after each document."""

    @property
    def source_ids(self) -> np.ndarray | None:
        """For each id, its id in the larger tokenizer that the vocabulary was cut from."""


@dataclass(frozen=True, eq=False)
class RowMap:
    """Rows of the parent whose mean each entry of the child takes.

    Attributes:
        pieces: The parent's ids, concatenated over the entries.
        counts: (entries,) number of pieces per entry: 0 for a random row, 1 for a copy, more for a mean.
        words: Relation of the two vocabularies, for the record.
    """

    pieces: np.ndarray
    counts: np.ndarray
    words: str

    def record(self) -> dict[str, Any]:
        """Shares of rows by origin, in percent, for the record of a run."""
        total = len(self.counts)
        origin = {"copied": self.counts == 1, "composed": self.counts > 1, "fresh": self.counts == 0}
        shares = {f"{name}_percent": 100 * int(mask.sum()) / total for name, mask in origin.items()}
        return {"relation": self.words, "entries": total, **shares}

    def apply(self, rows: Tensor, std: float, generator: torch.Generator) -> Tensor:
        """Compute the child's matrix.

        Args:
            rows: (parent entries, channels), the parent's embedding or head, already cut to the child's channels.
            std: Standard deviation of random rows, which are drawn from N(0, std^2).
            generator: Generator of random rows.

        Returns:
            (child entries, channels), of the type of ``rows``; copies are exact.
        """
        counts, pieces = torch.from_numpy(self.counts), torch.from_numpy(self.pieces)
        owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
        single = counts[owner] == 1
        result = rows.new_empty(len(counts), rows.shape[1])
        result[owner[single]] = rows[pieces[single]]
        composed = torch.nonzero(counts > 1).squeeze(1)
        if len(composed):
            place = torch.zeros(len(counts), dtype=torch.int64)
            place[composed] = torch.arange(len(composed))
            sums = torch.zeros(len(composed), rows.shape[1], dtype=torch.float32)
            sums.index_add_(0, place[owner[~single]], rows[pieces[~single]].float())
            result[composed] = (sums / counts[composed].unsqueeze(1)).to(rows.dtype)
        fresh = torch.nonzero(counts == 0).squeeze(1)
        drawn = torch.empty(len(fresh), rows.shape[1], dtype=torch.float32).normal_(0, std, generator=generator)
        result[fresh] = drawn.to(rows.dtype)
        return result


def map_rows(child: Entries, parent: Entries | None, rows: int | None = None) -> RowMap:
    """Find the parent's rows for each entry of the child's vocabulary.

    Special tokens are matched by name, and the end of text also by its role. ``child.source_ids`` is used only if the parent's
    entry at that id is equal, so that a map into another tokenizer does no harm.

    Args:
        child: The child's vocabulary.
        parent: The parent's vocabulary; if None, all rows are random.
        rows: Rows of the parent's embedding; entries beyond are ignored. None if all entries have a row.
    """
    if parent is None:
        return RowMap(np.zeros(0, np.int64), np.zeros(child.size, np.int64), "the parent has no vocabulary")
    old, new = _Spelling(parent, rows), _Spelling(child)
    found = [_pieces(number, new, old) for number in range(child.size)]
    counts = np.array([len(pieces) for pieces in found], dtype=np.int64)
    flat = np.array([piece for pieces in found for piece in pieces], dtype=np.int64)
    return RowMap(flat, counts, _relation(found, child, old))


def _relation(found: list[list[int]], child: Entries, old: _Spelling) -> str:
    if len(found) == len(old.names) and all(pieces == [number] for number, pieces in enumerate(found)):
        return "the parent's own vocabulary"
    if child.source_ids is not None and any(found):
        # Bytes that the parent's tokenizer lacks were added before it was cut (``formats.lossless``).
        sources = [[number] if number in old.names else [] for number in child.source_ids.tolist()]
        if found == sources:
            return "cut from the parent's vocabulary"
    return "a part of the parent's vocabulary" if all(len(pieces) == 1 for pieces in found) else "another vocabulary"


def _pieces(number: int, child: _Spelling, parent: _Spelling) -> list[int]:
    """Return the parent's ids for one entry of the child: the same entry, its pieces, or nothing."""
    name = child.names.get(number)
    if name is None:
        return []
    if number in child.special_ids:
        same = parent.ids.get(name)
        if same in parent.special_ids:
            return [same]
        return [parent.end_of_text] if number == child.end_of_text and parent.end_of_text is not None else []
    if child.source_ids is not None and parent.names.get(int(child.source_ids[number])) == name:
        return [int(child.source_ids[number])]
    text = child.texts[number]
    if child.byte_level == parent.byte_level and (same := parent.ids.get(name)) is not None and parent.texts.get(same) == text:
        return [same]
    if (same := parent.by_text.get(text)) is not None:
        return [same]
    return parent.split(text)


class _Spelling:
    """Bytes of the entries of a tokenizer, and how it splits a text."""

    def __init__(self, entries: Entries, rows: int | None = None) -> None:
        self.tokenizer = entries.tokenizer
        self.special_ids = frozenset(entries.special_ids)
        self.source_ids = entries.source_ids
        every = self.tokenizer.get_vocab(with_added_tokens=True)
        self.ids = {name: number for name, number in every.items() if rows is None or number < rows}
        self.names = {number: name for name, number in self.ids.items()}
        self.end_of_text = entries.end_of_text if entries.end_of_text in self.names else None
        self.byte_level = _has_byte_level(json.loads(self.tokenizer.to_str()))
        added = self.tokenizer.get_added_tokens_decoder()
        #: Id -> bytes, of all but special tokens.
        self.texts = {
            number: name.encode() if number in added else self.text(name)
            for number, name in self.names.items()
            if number not in self.special_ids
        }
        # SentencePiece has some characters twice, as "A" and as "<0x41>": the one that is not a byte piece is used.
        spelled = sorted(self.texts, key=lambda number: (self.names[number] not in _BYTES, -number))
        self.by_text = {self.texts[number]: number for number in spelled}

    def text(self, name: str) -> bytes:
        """Return the bytes of an entry."""
        if self.byte_level:
            values = byte_values()
            return bytes(values[letter] for letter in name) if all(letter in values for letter in name) else name.encode()
        return bytes([_BYTES[name]]) if name in _BYTES else name.replace(SPACE, " ").encode()

    def split(self, text: bytes) -> list[int]:
        """Return ids whose texts concatenate to ``text``; empty if there are none."""
        if self.byte_level:
            name = "".join(byte_characters()[byte] for byte in text)
        else:
            name = text.decode(errors="ignore").replace(" ", SPACE)
        # Without normalizer and pre-tokenizer: an entry is a piece already, and may be part of a character.
        pieces = [token.id for token in self.tokenizer.model.tokenize(name)] if name else []
        if b"".join(self.texts.get(piece, b"") for piece in pieces) == text:
            return pieces
        single = [self.by_text.get(bytes([byte])) for byte in text]
        return [piece for piece in single if piece is not None] if None not in single else []


def _has_byte_level(description: dict[str, Any]) -> bool:
    """Return whether a tokenizer represents bytes as letters, from its pre-tokenizer and decoder."""

    def walk(part: Any) -> bool:
        if isinstance(part, dict):
            return part.get("type") == "ByteLevel" or any(walk(value) for value in part.values())
        return isinstance(part, list) and any(walk(value) for value in part)

    return walk(description.get("decoder")) or walk(description.get("pre_tokenizer"))
