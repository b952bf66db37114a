"""Token shards -> training sequences, in an order that is a function of (seed, round, position).

There is no random state: the sequence at any position is computed from the position, so a run that resumes at position p
continues exactly where it stopped, and arms of a grid with one seed see the same text in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinylm_ablate.data.mixing import Group, Interleaving
from tinylm_ablate.data.permutation import Permutation
from tinylm_ablate.errors import UserError

Int64s = npt.NDArray[np.int64]


class Batches:
    """Windows of a corpus, in a new pseudo-random order every epoch.

    A window has ``context_length`` + 1 tokens, the last of which is the first of the next window; every token, except for a
    remainder shorter than a window, is a target once per epoch. With groups, each has its own windows and epochs, and positions
    take them in proportion to the groups' shares (``tinylm_ablate.data.mixing``).

    Args:
        shards_tokens: All tokens in one row; usually memory-mapped.
        context_length: Tokens per sequence.
        seed: The run's seed.
        round: The round of training; each round has another order.
        groups: Parts of the tokens with their shares; empty for all tokens in their natural shares.

    Attributes:
        epoch_windows: Number of sequences, each of which appears once per epoch: of the corpus, or of its groups.
        fresh: Positions before the first repeated window; with groups a few fewer.
        tokens: Training tokens per epoch, ``epoch_windows * context_length``.

    Raises:
        UserError: The corpus, or a group, is shorter than one window.
    """

    def __init__(
        self,
        shards_tokens: npt.NDArray[Any],
        context_length: int,
        seed: int,
        round: int,
        groups: Sequence[Group] = (),
    ) -> None:
        self._tokens = shards_tokens
        self._context_length = context_length
        self._offsets = np.arange(context_length + 1, dtype=np.int64)
        # Without groups, the key is the one from before groups were added, so that old runs keep their order.
        self._parts = (
            [_Part(group.start, group.tokens, context_length, (seed, round), (place,)) for place, group in enumerate(groups)]
            if groups
            else [_Part(0, len(shards_tokens), context_length, (seed, round), ())]
        )
        for part, name in zip(self._parts, [group.name for group in groups] or [""], strict=True):
            if part.windows < 1:
                said = f"the text of {name} in data.weights" if name else "the text"
                raise UserError(
                    f"train.context_length={context_length}: {said} has {part.count:,} tokens, and one sequence takes "
                    f"{context_length + 1:,}. Provide more text, or lower train.context_length"
                )
        self._interleaving = Interleaving([group.share for group in groups], (seed, round)) if groups else None
        self.epoch_windows = sum(part.windows for part in self._parts)
        self.tokens = self.epoch_windows * context_length
        self.fresh = self.epoch_windows
        if groups:
            until = min(part.windows / group.share for part, group in zip(self._parts, groups, strict=True))
            self.fresh = max(0, int(until) - len(groups))

    def windows(self, positions: Int64s) -> Int64s:
        """Start of the windows at ``positions`` (n,) in the shard, (n,): a table that a device can index by position."""
        positions = np.asarray(positions, dtype=np.int64)
        if self._interleaving is None:
            return self._parts[0].starts(positions)
        groups, places = self._interleaving(positions)
        starts = np.empty_like(positions)
        for group, part in enumerate(self._parts):
            chosen = groups == group
            starts[chosen] = part.starts(places[chosen])
        return starts

    def inputs(self, positions: Int64s) -> Int64s:
        """Tokens (n, context_length + 1) at ``positions`` (n,): all but the last are inputs, all but the first targets."""
        return np.asarray(self._tokens[self.windows(positions)[:, None] + self._offsets], dtype=np.int64)


class _Part:
    """Windows that are permuted together in each epoch."""

    def __init__(self, start: int, count: int, context_length: int, key: tuple[int, int], group: tuple[int, ...]) -> None:
        self.count = count
        self.windows = (count - 1) // context_length
        self._start, self._context_length, self._key, self._group = start, context_length, key, group

    def starts(self, places: Int64s) -> Int64s:
        """Start of the windows at ``places`` (n,); place p is in epoch ``p // windows``."""
        epochs, within = np.divmod(places, self.windows)
        starts = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            permutation = Permutation(self.windows, (*self._key, int(epoch), *self._group))
            starts[chosen] = permutation(within[chosen])
        return self._start + starts * self._context_length
