"""Counts of the entries of a large vocabulary in a corpus of any length (Section 2.1)."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from tokenizers import Tokenizer

from tinylm_ablate.formats.alphabet import SPACE, byte_characters
from tinylm_ablate.formats.lossless import State, has_dummy_prefix, open_tokenizer, without_dummy_prefix
from tinylm_ablate.tokenizer.junctions import Junctions

#: Characters to cut into pieces at a time, and number of distinct pieces to collect before encoding.
_BATCH_CHARACTERS = 1 << 20
_HELD_PIECES = 1 << 19
#: Characters of a batch that are also encoded as a whole, to verify the pieces.
_PROOF_CHARACTERS = 1 << 15
#: Pieces that pre-tokenizers do not split, so that the merges can be applied directly: single words.
_ONE_WORD = re.compile(r" ?[A-Z]?[a-z]+|[\u4e00-\u9fff]+")


def count_entries(state: State, size: int, texts: Iterable[str]) -> np.ndarray:
    """Count occurrences of each id when every text is encoded separately, without end-of-text tokens.

    The text is cut into pieces, and only distinct pieces are encoded (see ``junctions``). The beginning of the first,
    second, fourth, eighth ... batch is also encoded as a whole; if the counts differ, as an unknown kind of pre-tokenizer could
    cause, that batch and all later ones are counted the slow way.

    Args:
        state: The tokenizer in exact form.
        size: Entries of the vocabulary.
        texts: Any number of texts; memory does not grow with it.

    Returns:
        Counts by id, shape (size,), int64.
    """
    encoder = _Encoder(state, size)
    junctions = Junctions(state)
    counts = np.zeros(size, dtype=np.int64)
    held: Counter[str] = Counter()
    trusted = True
    for number, batch in enumerate(_batches(texts), 1):
        if trusted and number & (number - 1) == 0:
            proof = list(_beginning(batch))
            trusted = np.array_equal(encoder.whole(Counter(proof)), encoder.pieces(Counter(junctions.pieces(proof))))
        if trusted:
            held.update(junctions.pieces(batch))
        else:
            counts += encoder.whole(Counter(batch))
        if len(held) > _HELD_PIECES:
            counts += encoder.pieces(held)
            held.clear()
    counts += encoder.pieces(held)
    return counts


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _beginning(batch: list[str]) -> Iterator[str]:
    left = _PROOF_CHARACTERS
    for text in batch:
        if left <= 0:
            return
        yield text[:left]
        left -= len(text)


class _Encoder:
    """Counts of ids for texts with numbers of occurrences."""

    def __init__(self, state: State, size: int) -> None:
        self._size = size
        self._whole = open_tokenizer(state)
        self._inside = open_tokenizer(without_dummy_prefix(state)) if has_dummy_prefix(state) else self._whole
        self._model = self._inside.model
        self._letters = None if state["model"]["byte_fallback"] else dict(enumerate(byte_characters()))

    def whole(self, texts: Counter[str]) -> np.ndarray:
        """Count whole texts."""
        return self._through(self._whole, texts)

    def pieces(self, pieces: Counter[str]) -> np.ndarray:
        """Count pieces from inside a text."""
        words = {piece: times for piece, times in pieces.items() if _ONE_WORD.fullmatch(piece)}
        others = Counter({piece: times for piece, times in pieces.items() if piece not in words})
        counts = self._through(self._inside, others)
        spelled = zip(self._spelled(words), words.values(), strict=True)
        weighted = [(token.id, times) for word, times in spelled for token in self._model.tokenize(word)]
        if weighted:
            ids, times = np.array(weighted, dtype=np.int64).T
            np.add.at(counts, ids, times)
        return counts

    def _spelled(self, words: Iterable[str]) -> list[str]:
        """Convert words to the input of the merges."""
        joined = "\n".join(words)
        if not joined:
            return []
        if self._letters is None:
            return joined.replace(" ", SPACE).split("\n")
        return joined.encode().decode("latin-1").translate(self._letters).split(self._letters[0x0A])

    def _through(self, tokenizer: Tokenizer, texts: Counter[str]) -> np.ndarray:
        counts = np.zeros(self._size, dtype=np.int64)
        items = iter(texts.items())
        while chunk := list(itertools.islice(items, 1 << 14)):
            encodings = tokenizer.encode_batch_fast([text for text, _ in chunk], add_special_tokens=False)
            ids = [encoding.ids for encoding in encodings]
            flat = np.fromiter(itertools.chain.from_iterable(ids), dtype=np.int64)
            times = np.repeat(np.array([times for _, times in chunk]), [len(found) for found in ids])
            np.add.at(counts, flat, times)
        return counts
