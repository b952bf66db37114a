"""Token shards -> training sequences, in an order that is a function of (seed, round, position).

Nothing is drawn and nothing is remembered: the sequence at any position is computed from the position, so a run that starts
again at position p goes on exactly where it stopped, and arms of a grid with one seed see the same text in the same order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tinylm_ablate.data.permutation import Permutation
from tinylm_ablate.errors import UserError

Int64s = npt.NDArray[np.int64]


class Batches:
    """The windows of a text, in a new pseudo-random order every epoch.

    Window w holds the tokens from ``w * context_length`` on, with the first token of the next window as its last target; every
    token but a remainder shorter than a window is a target once an epoch.

    Args:
        shards_tokens: The text's tokens, one long row; usually memory-mapped.
        context_length: Tokens of a sequence.
        seed: The run's seed.
        round: The round of training; another round has another order.

    Attributes:
        windows: Sequences in an epoch.
        tokens: Tokens that are trained on in an epoch, ``windows * context_length``.

    Raises:
        UserError: The text is shorter than one window.
    """

    def __init__(self, shards_tokens: npt.NDArray[Any], context_length: int, seed: int, round: int) -> None:
        self._tokens = shards_tokens
        self._context_length = context_length
        self._seed = seed
        self._round = round
        self._offsets = np.arange(context_length + 1, dtype=np.int64)
        self.windows = (len(shards_tokens) - 1) // context_length
        if self.windows < 1:
            raise UserError(
                f"train.context_length={context_length}: the text has {len(shards_tokens):,} tokens, and one sequence takes "
                f"{context_length + 1:,}. Give more text, or lower train.context_length"
            )
        self.tokens = self.windows * context_length

    def ids(self, positions: Int64s) -> Int64s:
        """The windows at ``positions`` (n,); position p is in epoch ``p // windows``."""
        positions = np.asarray(positions, dtype=np.int64)
        epochs, places = np.divmod(positions, self.windows)
        ids = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            ids[chosen] = Permutation(self.windows, (self._seed, self._round, int(epoch)))(places[chosen])
        return ids

    def inputs(self, positions: Int64s) -> Int64s:
        """Tokens (n, context_length + 1) at ``positions`` (n,): all but the last are inputs, all but the first targets."""
        starts = self.ids(positions) * self._context_length
        return np.asarray(self._tokens[starts[:, None] + self._offsets], dtype=np.int64)
