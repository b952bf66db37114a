"""The two representations of single bytes in vocabularies, and the mark for a space."""

from __future__ import annotations

import functools

#: SentencePiece's mark for a space.
SPACE = "\u2581"

#: SentencePiece's entries for single bytes (byte fallback).
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))


@functools.cache
def byte_characters() -> tuple[str, ...]:
    """Return the character for each byte in a byte-level vocabulary.

    GPT-2's table: printable bytes of Latin-1 map to themselves, all others to U+0100 and up, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


@functools.cache
def byte_values() -> dict[str, int]:
    """Return the byte for each character of a byte-level vocabulary."""
    return {character: byte for byte, character in enumerate(byte_characters())}
