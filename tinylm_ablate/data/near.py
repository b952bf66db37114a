"""Near duplicates by MinHash (Broder 1997): texts that share most of their shingles with an earlier one."""

from __future__ import annotations

import re

#: Words per shingle; a Han character counts as a word.
_SHINGLE_WORDS = 5
_WORD = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]|\\w+")
#: Number of hash functions and bands: at a similarity of 0.8, 95 of 100 pairs share a band.
_PERMUTATIONS = 128
_BANDS = 16
_SEED = 1


def shingles(text: str) -> set[str]:
    """Return the 5-word shingles of ``text``, without case and punctuation; a shorter text is one shingle."""
    words = _WORD.findall(text.lower())
    if len(words) < _SHINGLE_WORDS:
        return {" ".join(words)}
    return {" ".join(run) for run in zip(*(words[start:] for start in range(_SHINGLE_WORDS)), strict=False)}


class NearDuplicates:
    """Index that recognizes near duplicates of earlier texts; about 1 kB of memory per text.

    Args:
        threshold: Minimum Jaccard similarity of the shingles of near duplicates, above 0 and at most 1.
    """

    def __init__(self, threshold: float) -> None:
        import rensa

        self._sketch = rensa.RMinHash
        self._index = rensa.RMinHashDeduplicator(threshold, _PERMUTATIONS, True, _BANDS, _SEED)
        self._count = 0

    def seen(self, text: str) -> bool:
        """Return whether an earlier text is a near duplicate of ``text``; if not, add ``text``."""
        sketch = self._sketch(_PERMUTATIONS, _SEED)
        sketch.update(list(shingles(text)))
        self._count += 1
        return not self._index.add(str(self._count), sketch)
