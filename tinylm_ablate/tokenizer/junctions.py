"""Cutting text where no entry of the vocabulary crosses the cut, so that equal pieces are encoded once.

For counting, order does not matter: text is cut into pieces, most of which occur many times, and only distinct pieces are
encoded. A cut between two characters does not change the encoding if

1. no entry of the vocabulary contains the end of the left character followed by the beginning of the right one, and
2. the pre-tokenizer would split the rest as before. This depends on its expression; the table below has the cuts that are
   safe for GPT-2, GPT-4, Qwen, Llama, DeepSeek and ours: a space after a word, the boundary between letters, digits and
   symbols, and any two Chinese characters. ``count`` verifies the result.

The first condition is looked up in a hashed bitmap. A collision only prevents a safe cut, which costs some time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import numpy as np

from tinylm_ablate.formats.alphabet import BYTE_PIECES, SPACE, byte_values
from tinylm_ablate.formats.lossless import State, added, has_dummy_prefix

_CODES = 0x110000
_BITS = 24
_OTHER, _BLANK, _SPACE, _NEWLINE, _LATIN, _HAN, _DIGIT, _SYMBOL = range(8)
_DIGIT_RANGES = ((0x30, 0x3A), (0xFF10, 0xFF1A))
_HAN_RANGES = ((0x3400, 0x4DC0), (0x4E00, 0xA000))
_SYMBOL_RANGES = (
    (0x21, 0x30), (0x3A, 0x41), (0x5B, 0x61), (0x7B, 0x7F), (0x2013, 0x2028), (0x3001, 0x3003), (0x3008, 0x3012),
    (0xFF01, 0xFF10), (0xFF1A, 0xFF21),
)  # fmt: skip


@functools.cache
def _classes() -> np.ndarray:
    """Return the class of each code point, uint8."""
    table = np.full(_CODES, _OTHER, dtype=np.uint8)
    table[[code for code in range(_CODES) if chr(code).isspace() or code < 0x20]] = _BLANK
    for first, last in _SYMBOL_RANGES:
        table[first:last] = _SYMBOL
    for first, last in _HAN_RANGES:
        table[first:last] = _HAN
    for first, last in _DIGIT_RANGES:
        table[first:last] = _DIGIT
    table[0x41:0x5B] = table[0x61:0x7B] = _LATIN
    table[[0x0A, 0x0D]] = _NEWLINE
    table[0x20] = _SPACE
    return table


@functools.cache
def _safe() -> np.ndarray:
    """Return whether a cut between two classes does not affect the pre-tokenizer's other splits, bool (left * 8 + right)."""
    table = np.zeros((8, 8), dtype=bool)
    table[[_OTHER, _LATIN, _HAN, _DIGIT, _SYMBOL], _SPACE] = True
    table[[_LATIN, _HAN, _DIGIT], _NEWLINE] = True
    table[[_LATIN, _HAN, _DIGIT], _SYMBOL] = True
    table[[_LATIN, _HAN, _SYMBOL], _DIGIT] = True
    table[[_LATIN, _HAN, _DIGIT, _SYMBOL], _HAN] = True
    table[[_HAN, _DIGIT], _LATIN] = True
    return table.reshape(-1)


def _hash(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    mixed = left.astype(np.uint32) * np.uint32(0x9E3779B1) + right.astype(np.uint32) * np.uint32(0x85EBCA6B)
    return np.asarray(mixed >> np.uint32(32 - _BITS))


@functools.cache
def _first_and_last_byte() -> tuple[np.ndarray, np.ndarray]:
    """Return first and last UTF-8 byte of each code point, offset by the number of code points, uint32."""
    codes = np.arange(_CODES, dtype=np.uint32)
    first = np.select(
        [codes < 0x80, codes < 0x800, codes < 0x10000],
        [codes, 0xC0 | codes >> 6, 0xE0 | codes >> 12],
        0xF0 | codes >> 18,
    )
    last = np.where(codes < 0x80, codes, 0x80 | codes & 0x3F)
    return (first + _CODES).astype(np.uint32), (last + _CODES).astype(np.uint32)


class Junctions:
    """Positions at which text may be cut for one vocabulary.

    Args:
        state: The large tokenizer in exact form.
    """

    def __init__(self, state: State) -> None:
        self.dummy_prefix = has_dummy_prefix(state)
        self._crossed = np.zeros(1 << _BITS, dtype=bool)
        lefts: list[int] = []
        rights: list[int] = []
        # Whether entries begin or end inside a character, so that single bytes must be looked up too.
        self._partial = False
        for units in _entry_units(state):
            lefts += units[:-1]
            rights += units[1:]
            self._partial |= max(units) >= _CODES
        self._crossed[_hash(np.array(lefts, dtype=np.uint32), np.array(rights, dtype=np.uint32))] = True

    def pieces(self, texts: Iterable[str]) -> list[str]:
        """Return pieces whose concatenated encodings are those of the texts (without a dummy prefix)."""
        lead = " " if self.dummy_prefix else ""
        texts = [lead + text for text in texts if text]
        if not texts:
            return []
        joined = "".join(texts)
        codes = np.frombuffer(joined.encode("utf-32-le"), dtype=np.uint32)
        classes = _classes()[codes]
        at = np.flatnonzero(_safe()[classes[:-1] * np.uint8(8) + classes[1:]])
        left, right = codes[at], codes[at + 1]
        crossed = self._crossed[_hash(left, right)]
        if self._partial:
            first, last = _first_and_last_byte()
            right_byte, left_byte = first[right], last[left]
            crossed |= self._crossed[_hash(left, right_byte)]
            crossed |= self._crossed[_hash(left_byte, right)]
            crossed |= self._crossed[_hash(left_byte, right_byte)]
        border = np.zeros(len(codes) + 1, dtype=bool)
        border[at[~crossed] + 1] = True
        border[np.cumsum([len(text) for text in texts])] = True
        cuts = np.flatnonzero(border).tolist()
        return [joined[start:end] for start, end in zip([0, *cuts], cuts, strict=False)]


def _entry_units(state: State) -> Iterable[list[int]]:
    """Return each entry as code points; bytes of an incomplete character have numbers above all code points.

    A character cut off at the end is represented by its first byte, one cut off at the beginning by its last.
    """
    # Ordinary added tokens are matched literally in the text.
    yield from (list(map(ord, token["content"])) for token in state["added_tokens"] if not token["special"])
    apart = set(added(state)) | set(BYTE_PIECES)
    entries = (entry for entry in state["model"]["vocab"] if len(entry) > 1 and entry not in apart)
    if state["model"]["byte_fallback"]:
        yield from (list(map(ord, entry.replace(SPACE, " "))) for entry in entries)
        return
    values = byte_values()
    for entry in entries:
        if not values.keys() >= set(entry):
            continue  # texts do not contain such characters
        content = bytes(values[character] for character in entry)
        start = 0
        while start < len(content) and content[start] & 0xC0 == 0x80:
            start += 1
        body = content[start:].decode("utf-8", errors="ignore")
        rest = content[start + len(body.encode()) :]
        units = [ord(character) for character in body]
        if start:
            units.insert(0, _CODES + content[start - 1])
        if rest:
            units.append(_CODES + rest[0])
        if len(units) > 1:
            yield units
