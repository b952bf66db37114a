"""Merge paths of byte-pair encoding: the two parts of each entry, and the entries that no text can produce.

Byte-pair encoding starts from single symbols and repeatedly joins the adjacent pair with the lowest rank. If the result
contains an entry, the joins inside it are those of encoding the entry alone: a join across its boundary would have given
another entry, and its neighbors do not affect the order of the joins inside. One merge per entry is therefore sufficient, and
if a file lists several, as converted SentencePiece models do, all but one never apply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import AnyStr

from tokenizers.models import BPE

Pair = tuple[str, str]


#: Rank of a pair that is never merged.
NEVER = math.inf


def last_pair(symbols: Sequence[AnyStr], rank: Callable[[AnyStr, AnyStr], float]) -> tuple[AnyStr, AnyStr] | None:
    """Return the two parts that the last merge joins to ``symbols``.

    Args:
        symbols: The entry's single symbols (characters or bytes), two or more.
        rank: Rank of merging two adjacent parts, lower first; ``NEVER`` if there is no such merge.

    Returns:
        The parts, or None if merging ends before two parts are left, so that the entry cannot be produced.
    """
    parts = list(symbols)
    ranks = [rank(left, right) for left, right in pairwise(parts)]
    while len(parts) > 2 and (best := min(ranks)) != NEVER:
        at = ranks.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del ranks[at]
        for changed in range(max(0, at - 1), min(at + 1, len(ranks))):
            ranks[changed] = rank(parts[changed], parts[changed + 1])
    return (parts[0], parts[1]) if len(parts) == 2 and ranks[0] != NEVER else None


def live_merges(vocab: dict[str, int], merges: Iterable[Sequence[str]], untouchable: set[str]) -> list[Pair]:
    """Return the merges that can occur, one per entry, in order.

    Args:
        vocab: Entry to id.
        merges: Pairs in the order of their rank.
        untouchable: Entries that text must never produce (special tokens).

    Returns:
        The pairs that some text can trigger. Dropping the others changes no encoding.
    """
    known = [
        (left, right)
        for left, right in merges
        if left in vocab and right in vocab and left + right in vocab and left + right not in untouchable
    ]
    by_result: dict[str, list[Pair]] = {}
    for pair in known:
        by_result.setdefault("".join(pair), []).append(pair)
    model = BPE(vocab=vocab, merges=known)
    ranks = {pair: at for at, pair in reversed(list(enumerate(known)))}
    live: set[Pair] = set()
    for entry, pairs in by_result.items():
        if len(model.tokenize(entry)) != 1:
            continue
        chosen = pairs[0] if len(pairs) == 1 else last_pair(entry, lambda left, right: ranks.get((left, right), NEVER))
        if chosen is not None:
            live.add(chosen)
    return [pair for pair in dict.fromkeys(known) if pair in live]


def unreachable(vocab: dict[str, int], merges: Iterable[Sequence[str]], given: set[str]) -> set[str]:
    """Return the entries that merging never produces.

    Args:
        vocab: Entry to id.
        merges: Result of ``live_merges``.
        given: Entries of several symbols that need no merge (byte pieces, special tokens).
    """
    made = {left + right for left, right in merges}
    return {entry for entry in vocab if len(entry) > 1 and entry not in made and entry not in given}
