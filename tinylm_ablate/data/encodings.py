"""Text files that are not UTF-8: reading a named encoding, and guessing an unknown one for messages."""

from __future__ import annotations

import codecs
import re
import shlex
from io import BufferedReader, RawIOBase
from pathlib import Path

from tinylm_ablate.data.languages import identify

#: Encodings that a detector may return: those common in text files. Rare ones would only add wrong guesses.
_CANDIDATES = [
    "utf_16", "utf_16_le", "utf_16_be", "utf_32", "gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1252", "cp1250",
    "cp1251", "cp1253", "cp1254", "cp1256", "koi8_r", "cp866",
]  # fmt: skip
#: Encodings that share most letters with cp1252, by the languages that are written in them.
_BY_LANGUAGE = {
    "cp1250": {"bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl", "sq"},
    "cp1254": {"az", "tr"},
}
_CHUNK = 1 << 18
#: Matches this close to the best, in the detector's measure of disorder, are ties.
_TIE = 0.005
#: Non-ASCII characters after which text in another encoding is not UTF-8 by chance: a pair of bytes is in 1 of 8 cases.
_NOT_BY_CHANCE = 8


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


def _is_utf8_text(chunk: bytes) -> bool:
    """Return whether ``chunk`` is UTF-8 with more than a few non-ASCII letters, so that it is not so by chance."""
    start = next((place for place, byte in enumerate(chunk[:4]) if byte & 0xC0 != 0x80), 0)
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(chunk[start:])
    except UnicodeDecodeError:
        return False
    return sum(not character.isascii() for character in text) >= _NOT_BY_CHANCE


class _Recoded(RawIOBase):
    """A binary stream that converts ``encoding`` to UTF-8.

    Most encodings accept any bytes, so a file in UTF-8 would become other text: its first part that is not ASCII is checked.
    """

    def __init__(self, stream: BufferedReader, encoding: str) -> None:
        self._stream = stream
        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._ended = False
        self._judged = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            chunk = self._stream.read(_CHUNK)
            self._ended = not chunk
            if not self._judged and not chunk.isascii():
                self._judged = True
                if _is_utf8_text(chunk):
                    raise UnicodeError("it is UTF-8")
            self._ready = self._decoder.decode(chunk, self._ended).encode("utf-8", "surrogatepass")
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._stream.close()
        super().close()


def as_utf8(stream: BufferedReader, encoding: str) -> BufferedReader:
    """Convert a stream in ``encoding`` to a stream of UTF-8.

    Reading raises UnicodeError if the text has another encoding.
    """
    if is_utf8(encoding):
        return stream
    return BufferedReader(_Recoded(stream, encoding), _CHUNK)


def likely_encoding(sample: bytes) -> str | None:
    """Guess the encoding of ``sample``, as a name that both Python and iconv accept; None without a guess."""
    from charset_normalizer import from_bytes

    if b"\0" not in sample:  # a single-byte or multibyte encoding: only lines with such characters identify which one
        telling = [line for line in sample.splitlines() if not line.isascii()]
        # A sample may begin or end inside a character.
        sample = b"\n".join(telling[1:-1] if len(telling) > 4 else telling)
    matches = list(from_bytes(sample, cp_isolation=_CANDIDATES))
    if not matches:
        return None
    ties = [match for match in matches if match.chaos <= matches[0].chaos + _TIE]
    names = [name for match in ties for name in match.could_be_from_charset]
    name = matches[0].encoding
    if "cp1252" in names:  # the file may have letters that differ, so the language decides, by the letters that do not
        language = identify(sample.decode("ascii", "ignore"))
        name = next((name for name in names if language in _BY_LANGUAGE.get(name, ())), "cp1252")
    return codecs.lookup(name).name.replace("_", "-")


def conversion(path: Path, encoding: str, unpack: str | None) -> str:
    """Return a shell command that writes a UTF-8 copy of the file next to it.

    Args:
        unpack: Command that unpacks the file to standard output; None for an uncompressed file.
    """
    unpacked = path.with_suffix("") if unpack else path
    new = shlex.quote(str(unpacked.with_suffix(f".utf8{unpacked.suffix}")))
    old, name = shlex.quote(str(path)), re.sub(r"(?<=16|32)-", "", encoding.upper())  # iconv's UTF-16LE
    if unpack:
        return f"{unpack} {old} | iconv -f {name} -t UTF-8 > {new}"
    return f"iconv -f {name} -t UTF-8 {old} > {new}"
