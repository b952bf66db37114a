"""Opens one file of text: unpacks it, decodes it to UTF-8, and turns damage into messages that name the file and the fix."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

from tinylm_ablate.data.encodings import as_utf8, conversion, is_utf8, likely_encoding
from tinylm_ablate.errors import UserError

_BUFFER = 1 << 20
#: Text around a byte that is not UTF-8 from which the encoding is guessed.
_SAMPLE = 1 << 18


def _zstd(path: str) -> Any:
    import pyarrow

    return pyarrow.input_stream(path, compression="zstd")


@dataclass(frozen=True)
class _Compression:
    open: Callable[[str], Any]
    test: str
    unpack: str


#: Compressions by suffix. Python's own gzip reads files padded with zeros, as tapes and some servers leave them.
_COMPRESSIONS: dict[str, _Compression] = {
    ".gz": _Compression(gzip.GzipFile, "gzip -t", "gzip -dc"),
    ".zst": _Compression(_zstd, "zstd -t", "zstd -dc"),
    ".bz2": _Compression(bz2.BZ2File, "bzip2 -t", "bzip2 -dc"),
    ".xz": _Compression(lzma.LZMAFile, "xz -t", "xz -dc"),
}
#: Suffixes of compressed files.
COMPRESSED = tuple(_COMPRESSIONS)
#: What reading a damaged file raises.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


def open_utf8(path: Path, encoding: str) -> BufferedReader:
    """The unpacked content of a file as a stream of UTF-8."""
    return as_utf8(_open(path), encoding)


def _open(path: Path) -> BufferedReader:
    compression = _COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return BufferedReader(FileIO(path), _BUFFER)
    return BufferedReader(compression.open(str(path)), _BUFFER)


def unreadable(path: Path, error: Exception) -> UserError:
    """The message for a file that cannot be read or unpacked."""
    if isinstance(error, PermissionError):
        return UserError(f"{path}: cannot be read ({error.strerror}). Give yourself the right: chmod u+r {path}")
    compression = _COMPRESSIONS.get(path.suffix.lower())
    if compression is not None:
        return UserError(
            f"{path}: is damaged or cut short ({error}). Make or download it again; test it with {compression.test}"
        )
    return UserError(f"{path}: cannot be read ({error})")


def misencoded(path: Path, encoding: str, error: UnicodeDecodeError) -> UserError:
    """The message for a file that is not in the encoding that ``data.encoding`` names."""
    return UserError(
        f"{path}: is not {encoding} ({error.reason}: 0x{error.object[error.start]:02x}). Set data.encoding to its encoding; "
        "data.encoding=utf-8 guesses it"
    )


def decode(path: Path, content: bytes, start: int, encoding: str) -> str:
    """Decode UTF-8 that stands at byte ``start`` of what is read from ``path``.

    Raises:
        UserError: It is not UTF-8, or holds zero bytes as UTF-16 does; the message guesses the encoding.
    """
    try:
        zero = content.find(b"\0")
        if zero < 0:
            return content.decode()
        wrong, reason = zero, "holds a zero byte, which text does not,"
    except UnicodeDecodeError as error:
        wrong, reason = error.start, "is not UTF-8"
    compression = _COMPRESSIONS.get(path.suffix.lower())
    unpacked = " of what is packed in it" if compression else ""
    message = f"{path}: {reason} at byte {start + wrong:,}{unpacked} (0x{content[wrong]:02x})."
    if not is_utf8(encoding):
        raise UserError(f"{message} It was read with data.encoding={encoding}; set that to the file's encoding")
    guess = likely_encoding(_sample(path, start + wrong))
    if guess is None or is_utf8(guess):
        raise UserError(f"{message} It looks like no known encoding of text: fix the file, or leave it out")
    command = conversion(path, guess, compression.unpack if compression else None)
    raise UserError(f"{message} It looks like {guess}: set data.encoding={guess}, or convert it: {command}")


def _sample(path: Path, place: int) -> bytes:
    """Some of the file around byte ``place``, from an even byte on as UTF-16 needs it."""
    with _open(path) as stream:
        skip = max(0, place - _SAMPLE // 4) // 2 * 2
        while skip and (passed := len(stream.read(min(skip, _BUFFER)))):
            skip -= passed
        return stream.read(_SAMPLE)
