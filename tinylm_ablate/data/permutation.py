"""Pseudo-random permutation as a function of position and key, without a table.

A keyed Feistel network permutes the numbers below a power of two; a result at or above the size is passed through the network
again until it is below ("cycle walking"; Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002). This gives
a permutation of any size with O(1) memory, where a shuffled index of 10 billion windows would take 80 GB.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
import numpy.typing as npt

#: Even, so that halves of unequal width end in their original positions.
_ROUNDS = 8
#: With fewer bits, the network has too few inner states to mix well; cycle walking handles smaller sizes.
_MIN_BITS = 4
#: Odd multipliers with about half of their bits set, so that multiplication is a bijection of 64-bit numbers.
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))

UInt64s = npt.NDArray[np.uint64]


class Permutation:
    """A pseudo-random permutation of 0 … size-1.

    Args:
        size: Number of items, at least 1.
        key: Integers from 0 to 2^64-1; different keys give unrelated permutations.
    """

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        if size < 1:
            raise ValueError(f"size={size}: a permutation has at least one item")
        self.size = size
        bits = max(_MIN_BITS, (size - 1).bit_length())
        self._low = bits // 2
        self._high = bits - self._low
        digest = hashlib.blake2b(struct.pack(f"<{len(key)}Q", *key), digest_size=8 * _ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8")

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the items at ``positions`` (any shape, each from 0 to size-1)."""
        flat = np.asarray(positions, dtype=np.uint64).reshape(-1)
        items = self._network(flat)
        outside = np.flatnonzero(items >= self.size)
        while outside.size:
            items[outside] = self._network(items[outside])
            outside = outside[items[outside] >= self.size]
        return items.astype(np.int64).reshape(np.shape(positions))

    def _network(self, numbers: UInt64s) -> UInt64s:
        """Apply the network once: a bijection of the numbers below 2^(low + high)."""
        right_bits, left_bits = self._low, self._high
        left, right = numbers >> np.uint64(right_bits), numbers & np.uint64((1 << right_bits) - 1)
        for key in self._keys:
            left, right = right, left ^ (_mix(right + key) & np.uint64((1 << left_bits) - 1))
            left_bits, right_bits = right_bits, left_bits
        return (left << np.uint64(right_bits)) | right


def _mix(numbers: UInt64s) -> UInt64s:
    """Mix all 64 bits: two rounds of shift, exclusive or and multiplication."""
    for multiplier in _MULTIPLIERS:
        numbers = (numbers ^ (numbers >> np.uint64(31))) * multiplier
    return numbers ^ (numbers >> np.uint64(32))
