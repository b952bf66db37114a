"""Opening of a text file: decompression, decoding to UTF-8, and error messages that name the file and the fix."""

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
#: Bytes around an invalid byte from which the encoding is guessed.
_SAMPLE = 1 << 18


def _zstd(path: str) -> Any:
    import pyarrow

    return pyarrow.input_stream(path, compression="zstd")


@dataclass(frozen=True)
class _Compression:
    open: Callable[[str], Any]
    test: str
    unpack: str


#: Compressions by suffix. Python's gzip also reads files padded with zeros, as tapes and some servers write them.
_COMPRESSIONS: dict[str, _Compression] = {
    ".gz": _Compression(gzip.GzipFile, "gzip -t", "gzip -dc"),
    ".zst": _Compression(_zstd, "zstd -t", "zstd -dc"),
    ".bz2": _Compression(bz2.BZ2File, "bzip2 -t", "bzip2 -dc"),
    ".xz": _Compression(lzma.LZMAFile, "xz -t", "xz -dc"),
}
#: Suffixes of compressed files.
COMPRESSED = tuple(_COMPRESSIONS)
#: Exceptions raised by damaged files.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError)


def open_utf8(path: Path, encoding: str) -> BufferedReader:
    """Return the decompressed content of a file as a stream of UTF-8."""
    return as_utf8(_open(path), encoding)


def _open(path: Path) -> BufferedReader:
    compression = _COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return BufferedReader(FileIO(path), _BUFFER)
    return BufferedReader(compression.open(str(path)), _BUFFER)


def unreadable(path: Path, error: Exception) -> UserError:
    """Return the error for a file that cannot be read or decompressed."""
    if isinstance(error, PermissionError):
        return UserError(f"{path}: cannot be read ({error.strerror}). Change its permissions: chmod u+r {path}")
    compression = _COMPRESSIONS.get(path.suffix.lower())
    if compression is not None:
        return UserError(
            f"{path}: is damaged or truncated ({error}). Create or download it again; test it with {compression.test}"
        )
    return UserError(f"{path}: cannot be read ({error})")


def misencoded(path: Path, encoding: str, error: UnicodeError) -> UserError:
    """Return the error for a file that is not in the encoding of ``data.encoding``."""
    reason = f"{error.reason}: 0x{error.object[error.start]:02x}" if isinstance(error, UnicodeDecodeError) else str(error)
    return UserError(
        f"{path}: is not {encoding} ({reason}). Set data.encoding to its encoding "
        "(data.encoding=utf-8 guesses it), or convert files in different encodings to UTF-8"
    )


def decode(path: Path, content: bytes, start: int, encoding: str) -> str:
    """Decode UTF-8 that begins at byte ``start`` of the content of ``path``.

    Raises:
        UserError: The bytes are not UTF-8, or include zero bytes, as in UTF-16; the message guesses the encoding.
    """
    try:
        zero = content.find(b"\0")
        if zero < 0:
            return content.decode()
        wrong, reason = zero, "has a zero byte, which is invalid in text,"
    except UnicodeDecodeError as error:
        wrong, reason = error.start, "is not UTF-8"
    compression = _COMPRESSIONS.get(path.suffix.lower())
    unpacked = " of its decompressed content" if compression else ""
    message = f"{path}: {reason} at byte {start + wrong:,}{unpacked} (0x{content[wrong]:02x})."
    if not is_utf8(encoding):
        raise UserError(f"{message} It was read with data.encoding={encoding}; set that to the file's encoding")
    guess = likely_encoding(_sample(path, start + wrong))
    if content[wrong] == 0 and not (guess or "").startswith(("utf-16", "utf-32")):
        raise UserError(f"{message} Everything before it is UTF-8: remove the zero bytes, or the file")
    if guess is None or is_utf8(guess):
        raise UserError(f"{message} It matches no known text encoding: fix the file, or remove it")
    command = conversion(path, guess, compression.unpack if compression else None)
    raise UserError(
        f"{message} It looks like {guess}: set data.encoding={guess}, or convert it and replace it by the copy: {command}"
    )


def _sample(path: Path, place: int) -> bytes:
    """Return a sample of the file around byte ``place`` that starts at an even byte, as UTF-16 requires."""
    with _open(path) as stream:
        skip = max(0, place - _SAMPLE // 4) // 2 * 2
        while skip and (passed := len(stream.read(min(skip, _BUFFER)))):
            skip -= passed
        return stream.read(_SAMPLE)
