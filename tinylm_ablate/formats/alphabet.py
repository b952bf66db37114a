"""The two ways in which a vocabulary writes single bytes, and the mark that stands for a space."""

from __future__ import annotations

import functools

#: What SentencePiece writes for a space.
SPACE = "\u2581"

#: SentencePiece's entries for single bytes (byte fallback).
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """The character that stands for each byte in a byte-level vocabulary, by byte.

    GPT-2's table: a printable byte of Latin-1 stands for itself; the others follow from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


@functools.cache
def byte_values() -> dict[str, int]:
    """The byte for which each character of a byte-level vocabulary stands."""
    return {character: byte for byte, character in enumerate(byte_characters())}
