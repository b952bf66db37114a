"""Plain text -> documents, in bounded memory: small files as a whole, books cut at blank lines."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from tinylm_ablate.data.opening import decode
from tinylm_ablate.data.rows import Row

#: In a folder, a .txt file of at most this many bytes is one document.
WHOLE_BYTES = 64_000
#: When a .txt file is cut, a document ends at the first blank line after this many bytes …
_CUT_BYTES = 4_000
#: … or at the end of a line after this many, if there are no blank lines …
_CUT_AT_LINE_BYTES = 16_000
#: … or inside a longer line, so that a file without line ends is read in bounded memory too.
_CUT_ANYWHERE_BYTES = 64_000


def read_text(path: Path, stream: BufferedReader, encoding: str, *, cut: bool) -> Iterator[Row]:
    """Yield the documents of a .txt file.

    Args:
        stream: Its content in UTF-8.
        encoding: Encoding of the file, for messages.
        cut: Whether to cut it into documents even if it is small.
    """
    head = stream.read(WHOLE_BYTES + 1)
    if len(head) <= WHOLE_BYTES and not cut:
        yield Row(_plain(decode(path, head, 0, encoding)), None, "byte 0")
        return
    start = 0
    for piece in _pieces(head, stream):
        yield Row(_plain(decode(path, piece, start, encoding)), None, f"byte {start:,}")
        start += len(piece)


def _plain(text: str) -> str:
    """Remove the byte order mark and normalize line ends."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _pieces(head: bytes, stream: BufferedReader) -> Iterator[bytes]:
    """Cut a stream of bytes into documents of about ``_CUT_BYTES``, never inside a character."""
    piece = bytearray()
    for line in _lines(head, stream):
        piece += line
        blank = not line.strip()
        if len(piece) >= (_CUT_BYTES if blank else _CUT_AT_LINE_BYTES):
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


def _lines(head: bytes, stream: BufferedReader) -> Iterator[bytes]:
    """Yield the lines of ``head`` and ``stream``; very long lines in parts that end between characters."""
    rest = head
    while True:
        *whole, rest = rest.split(b"\n")
        for line in whole:
            yield from _parts(line + b"\n")
        if len(rest) > _CUT_ANYWHERE_BYTES:
            *done, rest = _parts(rest)
            yield from done
        more = stream.read(_CUT_ANYWHERE_BYTES)
        if not more:
            break
        rest += more
    if rest:
        yield from _parts(rest)


def _parts(line: bytes) -> Iterator[bytes]:
    start = 0
    while len(line) - start > _CUT_ANYWHERE_BYTES:
        end = start + _CUT_ANYWHERE_BYTES
        # UTF-8 continuation bytes are 0b10xxxxxx; a character has at most three.
        while end > start + _CUT_ANYWHERE_BYTES - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        yield line[start:end]
        start = end
    yield line[start:]
