"""Near duplicates by MinHash (Broder 1997): texts that share most of their shingles with one that came before."""

from __future__ import annotations

import re

#: Words of a shingle; a Han character counts as a word.
_SHINGLE_WORDS = 5
_WORD = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]|\\w+")
#: Hash functions, and the bands that they are cut into: at a similarity of 0.8, 95 of 100 pairs meet in a band.
_PERMUTATIONS = 128
_BANDS = 16
_SEED = 1


def shingles(text: str) -> set[str]:
    """The runs of five words in ``text``, without case and punctuation; all of a shorter text is one."""
    words = _WORD.findall(text.lower())
    if len(words) < _SHINGLE_WORDS:
        return {" ".join(words)}
    return {" ".join(run) for run in zip(*(words[start:] for start in range(_SHINGLE_WORDS)), strict=False)}


class NearDuplicates:
    """Remembers texts and recognizes those that are nearly one of them; about 1 kB of memory a text.

    Args:
        threshold: Least Jaccard similarity of the shingles of near duplicates, above 0 and at most 1.
    """

    def __init__(self, threshold: float) -> None:
        import rensa

        self._sketch = rensa.RMinHash
        self._index = rensa.RMinHashDeduplicator(threshold, _PERMUTATIONS, True, _BANDS, _SEED)
        self._count = 0

    def seen(self, text: str) -> bool:
        """Return whether a near duplicate of ``text`` came before; if none did, ``text`` is remembered."""
        sketch = self._sketch(_PERMUTATIONS, _SEED)
        sketch.update(list(shingles(text)))
        self._count += 1
        return not self._index.add(str(self._count), sketch)
