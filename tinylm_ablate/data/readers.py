"""One file of text -> its documents, in bounded memory, with a place in every complaint.

Files are read by pyarrow and json rather than through ``datasets``: its loaders name neither the file nor the line of a bad
byte, a bad row or a damaged footer (measured with 5.2: "'utf-8' codec can't decode byte 0xd6 in position 600", "JSON parse
error: Invalid value. in row 777"; a cut .zst is called bad JSON), and a run of hours deserves to know which file to mend.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from tinylm_ablate.errors import UserError

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
#: What a file may be called.
SUFFIXES = (".txt", ".txt.gz", ".txt.zst", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

#: A .txt file of a folder is one document up to this many bytes.
WHOLE_BYTES = 64_000
#: A .txt file that is cut ends a document at the first blank line after this many bytes …
_CUT_BYTES = 4_000
#: … at the end of a line after this many, where there are no blank lines …
_CUT_AT_LINE_BYTES = 16_000
#: … and inside a line of more than this, so that a file without line ends is read in bounded memory too.
_CUT_ANYWHERE_BYTES = 64_000
#: A row of .jsonl is one line; a longer one is surely no document.
_MAX_ROW_BYTES = 1 << 28
_PARQUET_ROWS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """A text, the value of its language column (None without one), and where it stands in its file."""

    text: str
    language: object
    place: str


@dataclass(frozen=True)
class Columns:
    """The columns to read."""

    text: str
    language: str | None


def suffix_of(path: Path) -> str | None:
    """The one of ``SUFFIXES`` that ``path`` ends with, or None."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)


def read_rows(path: Path, columns: Columns, *, cut: bool) -> Iterator[Row]:
    """The texts of one file, in order.

    Args:
        cut: Whether a .txt file is cut into documents even if it is small.

    Raises:
        UserError: The file is damaged, not UTF-8, not of its kind, or lacks a column.
    """
    suffix = suffix_of(path) or ""
    try:
        if suffix == ".parquet":
            yield from _read_parquet(path, columns)
            return
        with _open(path) as stream:
            if suffix.startswith(".txt"):
                yield from _read_text(path, stream, cut=cut)
            else:
                yield from _read_json_lines(path, stream, columns)
    except (OSError, EOFError) as error:
        raise _unreadable(path, error) from error


def _open(path: Path) -> BinaryIO:
    import pyarrow

    compression = _COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return path.open("rb", buffering=1 << 20)
    return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression=compression), 1 << 20))


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, PermissionError):
        return UserError(f"{path}: cannot be read ({error.strerror}). Give yourself the right: chmod u+r {path}")
    if path.suffix.lower() in _COMPRESSIONS:
        return UserError(
            f"{path}: is damaged or cut short ({error}). Make or download it again; test it with gzip -t or zstd -t"
        )
    return UserError(f"{path}: cannot be read ({error})")


def _read_text(path: Path, stream: BinaryIO, *, cut: bool) -> Iterator[Row]:
    head = stream.read(WHOLE_BYTES + 1)
    if len(head) <= WHOLE_BYTES and not cut:
        yield Row(_plain(_decode(path, head, 0)), None, "byte 0")
        return
    start = 0
    for piece in _pieces(head, stream):
        yield Row(_plain(_decode(path, piece, start)), None, f"byte {start:,}")
        start += len(piece)


def _plain(text: str) -> str:
    """Without a byte order mark, and with line ends as they are everywhere else."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def _pieces(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
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


def _lines(head: bytes, stream: BinaryIO) -> Iterator[bytes]:
    """The lines of ``head`` and then ``stream``; of a very long one, parts that end between characters."""
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
        # A continuation byte of UTF-8 is 0b10xxxxxx; no character has more than three.
        while end > start + _CUT_ANYWHERE_BYTES - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        yield line[start:end]
        start = end
    yield line[start:]


def _read_json_lines(path: Path, stream: BinaryIO, columns: Columns) -> Iterator[Row]:
    number = start = 0
    while line := stream.readline(_MAX_ROW_BYTES):
        number += 1
        place = f"line {number:,}"
        if len(line) == _MAX_ROW_BYTES:
            raise UserError(
                f"{path}, {place}: is longer than {_MAX_ROW_BYTES:,} bytes; .jsonl has one small object on each line"
            )
        text = _decode(path, line, start).removeprefix("\ufeff" if number == 1 else "")
        start += len(line)
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise UserError(
                f"{path}, {place}: is not JSON ({reason}). .jsonl has one object on each line; mend or delete the line"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f'{path}, {place}: is no object; each line has to be like {{"{columns.text}": "…"}}')
        _check_columns(f"{path}, {place}", columns, list(row))
        yield Row(
            _text(path, place, columns.text, row[columns.text]), row[columns.language] if columns.language else None, place
        )


def _read_parquet(path: Path, columns: Columns) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(str(path), buffer_size=1 << 20)  # else a whole row group is held
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: is damaged, cut short, or no parquet file ({error}). Make or download it again") from error
    wanted = [columns.text] + ([columns.language] if columns.language else [])
    number = 0
    with file:
        _check_columns(str(path), columns, file.schema_arrow.names)
        try:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=wanted):
                texts = batch.column(columns.text).to_pylist()
                languages = batch.column(columns.language).to_pylist() if columns.language else [None] * len(texts)
                for text, language in zip(texts, languages, strict=True):
                    number += 1
                    place = f"row {number:,}"
                    yield Row(_text(path, place, columns.text, text), language, place)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: is damaged after row {number:,} ({error}). Make or download it again") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: column {columns.text} is not UTF-8 after row {number:,} ({error.reason}). Write it again in UTF-8"
            ) from error


def _check_columns(where: str, columns: Columns, there: list[str]) -> None:
    for key, name in (("data.text_column", columns.text), ("data.language_column", columns.language)):
        if name is not None and name not in there:
            raise UserError(f"{where}: has no column {key}={name}; it has {', '.join(map(str, there)) or 'none'}")


def _text(path: Path, place: str, column: str, value: Any) -> str:
    """The text of a row; a missing one counts as empty, which the corpus drops."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{path}, {place}: column {column} holds {type(value).__name__}, not text; set data.text_column to a column of text"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{path}, {place}: column {column} holds half a character, {value[error.start]!a} at position {error.start}, "
            "which no UTF-8 text can; mend the escape"
        ) from error
    return value


def _decode(path: Path, content: bytes, start: int) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        unpacked = " of what is packed in it" if path.suffix.lower() in _COMPRESSIONS else ""
        raise UserError(
            f"{path}: is not UTF-8 at byte {start + error.start:,}{unpacked} (0x{content[error.start]:02x}). "
            "Convert it, for example from the usual Chinese encoding: iconv -f GB18030 -t UTF-8 OLD > NEW"
        ) from error
