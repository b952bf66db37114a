"""The compact tokenizer: a large vocabulary reduced to its special tokens and most frequent entries (Section 2.1).

The authors delete the other pieces from the model in place, which leaves entries that can no longer occur because a part of
their merge path is missing. Here, an entry is kept together with the missing parts of its path, so that every entry can occur;
the 256 bytes are always kept, so that any text can be encoded.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.lossless import State, added, base_entries, dead_entries


def cut(
    state: State, counts: np.ndarray, vocab_size: int, *, end_of_text: str, keep_special: str = "all"
) -> tuple[State, np.ndarray]:
    """Keep the most frequent entries.

    Entries are added in order of their counts, ties in order of their ids, each with the missing parts of its merge path; one
    that does not fit with them is skipped until it does. If there is space left, entries that no text can produce and special
    tokens that need not be kept are added last: with the full size, the result is the tokenizer itself. Ids and merges keep
    their order.

    Args:
        state: The large tokenizer in exact form.
        counts: Occurrences of its ids, shape (its size,).
        vocab_size: Entries to keep, special tokens included.
        end_of_text: The large tokenizer's end-of-text token, always kept.
        keep_special: "all" keeps every added token; "used" keeps those that occur, and end-of-text.

    Returns:
        The compact tokenizer in exact form, with ids 0 to vocab_size - 1, and for each of them the id in the large one,
        shape (vocab_size,), int64, ascending.

    Raises:
        UserError: The size is below the number of entries to keep, or above the large tokenizer's.
    """
    vocab: dict[str, int] = state["model"]["vocab"]
    kept = _always_kept(state, counts, end_of_text, keep_special)
    if not len(kept) <= vocab_size <= len(vocab):
        held = f"256 bytes and {len(kept) - 256:,} special tokens"
        hint = ", or fewer special tokens: tokenizer.keep_special=used" if keep_special == "all" and len(kept) > 257 else ""
        raise UserError(
            f"tokenizer.vocab_size={vocab_size}: allowed: {len(kept):,} ({held}) "
            f"to {len(vocab):,} (the large tokenizer's entries){hint}"
        )
    parts = {left + right: (left, right) for left, right in state["model"]["merges"]}
    special = added(state)
    dead = dead_entries(state)
    by_frequency = sorted(vocab.keys() - kept - special.keys() - dead, key=lambda entry: (-counts[vocab[entry]], vocab[entry]))
    _fill(kept, by_frequency, parts, vocab_size)
    leftover = sorted((dead | special.keys()) - kept, key=lambda entry: (entry in special, vocab[entry]))
    kept.update(leftover[: vocab_size - len(kept)])
    return _restricted(state, kept)


def _always_kept(state: State, counts: np.ndarray, end_of_text: str, keep_special: str) -> set[str]:
    special = {
        token
        for token, identity in added(state).items()
        if keep_special == "all" or token == end_of_text or counts[identity] > 0
    }
    return base_entries(state) | special


def _fill(kept: set[str], candidates: list[str], parts: dict[str, tuple[str, str]], vocab_size: int) -> None:
    """Add candidates in order, each with the missing parts of its merge path, until there are vocab_size entries."""
    while candidates and len(kept) < vocab_size:
        passed_over = []
        for entry in candidates:
            room = vocab_size - len(kept)
            missing = _missing(entry, kept, parts, room)
            if missing is None:
                passed_over.append(entry)
            else:
                kept |= missing
        # Each round adds at least one entry: of any path that does not fit, the first missing part does.
        candidates = passed_over


def _missing(entry: str, kept: set[str], parts: dict[str, tuple[str, str]], room: int) -> set[str] | None:
    """Return the missing entries of a merge path, or None if there is no space for them."""
    missing: set[str] = set()
    open_ends = [entry]
    while open_ends:
        part = open_ends.pop()
        if part not in kept and part not in missing:
            if len(missing) == room:
                return None
            missing.add(part)
            open_ends.extend(parts.get(part, ()))
    return missing


def _restricted(state: State, kept: Iterable[str]) -> tuple[State, np.ndarray]:
    """Return the tokenizer with only the kept entries, renumbered in the order of their ids."""
    vocab: dict[str, int] = state["model"]["vocab"]
    ordered = sorted(kept, key=vocab.__getitem__)
    renumbered = {entry: at for at, entry in enumerate(ordered)}
    merges = [
        [left, right]
        for left, right in state["model"]["merges"]
        if left in renumbered and right in renumbered and left + right in renumbered
    ]
    tokens = [token | {"id": renumbered[token["content"]]} for token in state["added_tokens"] if token["content"] in renumbered]
    model = state["model"] | {"vocab": renumbered, "merges": merges}
    source_ids = np.array([vocab[entry] for entry in ordered], dtype=np.int64)
    return state | {"model": model, "added_tokens": tokens}, source_ids
