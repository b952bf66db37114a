"""Proportions in which groups of text are trained on: the group of each position's window, computed without a table.

Shares hold throughout a run, not only on average: the first n windows of a run include n times a group's share of its windows,
within one (with k groups, within k - 1). The group of a position is a function of the position, like all order here.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tinylm_ablate.config import DataConfig
from tinylm_ablate.errors import UserError

Int64s = npt.NDArray[np.int64]

#: Shares are in units of 1 / 2^30, so that positions below 2^33 fit in 64 bits.
_BITS = 30
_UNIT = 1 << _BITS


@dataclass(frozen=True)
class Group:
    """Tokens with their own share of the training.

    Attributes:
        name: A language or a source.
        start: Position of its first token in the shard.
        tokens: Number of its tokens.
        share: Its share of the windows of a run; all shares sum to 1.
    """

    name: str
    start: int
    tokens: int
    share: float


class Interleaving:
    """Assigns positions to groups.

    The first group takes a position whenever its share of the positions so far passes a whole number; the remaining positions
    are renumbered and assigned to the other groups in the same way. A key sets the phase of each count.

    Args:
        shares: Share of each group, at least 0, summing to 1.
        key: Integers from 0 to 2^64-1.
    """

    def __init__(self, shares: Sequence[float], key: tuple[int, ...]) -> None:
        left = 1.0
        self._rates: list[int] = []
        for share in shares[:-1]:
            self._rates.append(min(_UNIT, round(_UNIT * share / left)) if left > 1e-12 else 0)
            left -= share
        digest = hashlib.blake2b(struct.pack(f"<{len(key)}Q", *key), digest_size=64, person=b"interleaving").digest()
        offsets = np.frombuffer(digest, dtype="<u8") % _UNIT
        self._offsets = [int(offsets[place % len(offsets)]) for place in range(len(self._rates))]

    def __call__(self, positions: Int64s) -> tuple[Int64s, Int64s]:
        """Return the group of each position (n,), and the number of earlier positions of that group, (n,)."""
        groups = np.full(positions.shape, len(self._rates), dtype=np.int64)
        places = np.array(positions, dtype=np.int64)
        for group, (rate, offset) in enumerate(zip(self._rates, self._offsets, strict=True)):
            free = groups == len(self._rates)
            before = (places * rate + offset) >> _BITS
            mine = free & (((places + 1) * rate + offset) >> _BITS > before)
            groups[mine] = group
            places = np.where(mine, before, np.where(free, places - before, places))
        return groups, places


def grouped_by(data: DataConfig) -> str | None:
    """Column of the names in ``data.weights``: "source" if all are in ``data.sources``, else "language"."""
    if not data.weights:
        return None
    return "source" if data.sources and set(data.weights) <= set(data.sources) else "language"


def check_names(data: DataConfig, names: Iterable[str]) -> None:
    """Refuse weights that do not name exactly ``names``, the languages or sources of the training text.

    Raises:
        UserError: Names are missing or unknown; the message lists them.
    """
    missing = sorted(set(names) - set(data.weights))
    unknown = sorted(set(data.weights) - set(names))
    if missing or unknown:
        said = f"the training text has {', '.join(sorted(names))}"
        said += f"; no weight is set for {', '.join(missing)} (0 excludes it)" if missing else ""
        said += f"; unknown: {', '.join(unknown)}" if unknown else ""
        if set(data.weights) & set(data.sources) and grouped_by(data) == "language":
            said += f". For shares by source, use only names of data.sources: {', '.join(data.sources)}"
        raise UserError(f"data.weights={dict(data.weights)}: {said}")


def groups_of(data: DataConfig, counted: Mapping[str, Mapping[str, int]]) -> tuple[Group, ...]:
    """Return the groups of ``data.weights``; empty without weights.

    Args:
        counted: Start, tokens and bytes of each group in the training split: ``groups`` of the shards' summary.

    Raises:
        UserError: The weights do not name exactly the groups of the text.
    """
    if not data.weights:
        return ()
    check_names(data, counted)
    # Windows consist of tokens; the fewer bytes per token, the more windows are needed for a share of the bytes.
    in_tokens = {
        name: data.weights[name] * (entry["tokens"] / entry["bytes"] if data.weights_by == "bytes" else 1.0)
        for name, entry in counted.items()
    }
    total = sum(in_tokens.values())
    return tuple(
        Group(name, entry["start"], entry["tokens"], in_tokens[name] / total)
        for name, entry in sorted(counted.items())
        if in_tokens[name] > 0
    )
