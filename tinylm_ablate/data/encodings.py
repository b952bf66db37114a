"""Text files that are not UTF-8: reading them on request, and naming their likely encoding when they turn up uninvited."""

from __future__ import annotations

import codecs
import re
import shlex
from io import BufferedReader, RawIOBase
from pathlib import Path

#: What a detector may answer: encodings that text files are really found in. More of them only add wrong guesses.
_CANDIDATES = [
    "utf_16", "utf_16_le", "utf_16_be", "utf_32", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1252", "cp1250",
    "cp1251", "cp1253", "cp1254", "cp1256", "koi8_r", "cp866",
]  # fmt: skip
_CHUNK = 1 << 18
#: Matches this close to the best in the detector's measure of disorder are ties.
_TIE = 0.005


def is_utf8(encoding: str) -> bool:
    """Return whether ``encoding`` is a name of UTF-8, with or without a byte order mark."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def is_text_encoding(encoding: str) -> bool:
    """Return whether Python can decode text from ``encoding``."""
    try:
        "a".encode(encoding)
        codecs.getincrementaldecoder(encoding)
    except (LookupError, UnicodeError, ValueError):
        return False
    return True


class _Recoded(RawIOBase):
    """A binary stream in ``encoding``, read as UTF-8."""

    def __init__(self, stream: BufferedReader, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            chunk = self._stream.read(_CHUNK)
            self._ended = not chunk
            self._ready = self._decoder.decode(chunk, self._ended).encode("utf-8", "surrogatepass")
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


def as_utf8(stream: BufferedReader, encoding: str) -> BufferedReader:
    """``stream``, which holds text in ``encoding``, as a stream of UTF-8.

    Reading raises UnicodeDecodeError where the text is in another encoding.
    """
    if is_utf8(encoding):
        return stream
    return BufferedReader(_Recoded(stream, encoding), _CHUNK)


def likely_encoding(sample: bytes) -> str | None:
    """The encoding that ``sample`` is most likely in, as a name that Python and iconv both know; None without a guess."""
    from charset_normalizer import from_bytes

    if b"\0" not in sample:  # a single-byte or multibyte encoding: only lines with such characters identify which one
        telling = [line for line in sample.splitlines() if not line.isascii()]
        # The ends of a sample may cut a character in two.
        sample = b"\n".join(telling[1:-1] if len(telling) > 4 else telling)
    matches = list(from_bytes(sample, cp_isolation=_CANDIDATES))
    if not matches:
        return None
    names = [match.encoding for match in matches if match.chaos <= matches[0].chaos + _TIE]
    # Most characters of Western languages are the same in both; where nothing distinguishes them, the usual one is assumed.
    name = "cp1252" if "cp1252" in names and names[0] == "cp1250" else names[0]
    return codecs.lookup(name).name.replace("_", "-")


def conversion(path: Path, encoding: str, unpack: str | None) -> str:
    """A shell command that writes the file again in UTF-8 beside itself.

    Args:
        unpack: The command that unpacks it to standard output, or None for a plain file.
    """
    suffixes = "".join(path.suffixes[-2:-1] if unpack else path.suffixes[-1:])
    new = shlex.quote(str(path.with_name(f"{path.name.split('.')[0]}.utf8{suffixes}")))
    old, name = shlex.quote(str(path)), re.sub(r"(?<=16|32)-", "", encoding.upper())  # iconv's UTF-16LE
    if unpack:
        return f"{unpack} {old} | iconv -f {name} -t UTF-8 > {new}"
    return f"iconv -f {name} -t UTF-8 {old} > {new}"
