"""One file of text -> its documents, in bounded memory; errors name the file and the position.

Files are read with pyarrow, csv and json rather than ``datasets``, whose loaders name neither the file nor the line of a bad
byte, a bad row or a damaged footer (with version 5.2: "'utf-8' codec can't decode byte 0xd6 in position 600", "JSON parse
error: Invalid value. in row 777"; a truncated .zst is reported as bad JSON).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tinylm_ablate.data.cutting import read_text
from tinylm_ablate.data.opening import COMPRESSED, DAMAGE, misencoded, open_utf8, unreadable
from tinylm_ablate.data.parquet import read_parquet
from tinylm_ablate.data.rows import Columns, Row
from tinylm_ablate.data.table_files import read_csv, read_json, read_json_lines

_TEXT_KINDS = (".txt", ".jsonl", ".json", ".csv", ".tsv")
#: Suffixes of files that can be read.
SUFFIXES = (*(kind + packed for kind in _TEXT_KINDS for packed in ("", *COMPRESSED)), ".parquet")
#: The suffixes, for messages.
KINDS = f"{' '.join(_TEXT_KINDS)} (also with {' '.join(COMPRESSED)}) and .parquet"


def suffix_of(path: Path) -> str | None:
    """Return the suffix of ``path`` in ``SUFFIXES``, or None."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)


def read_rows(path: Path, columns: Columns, *, cut: bool, encoding: str = "utf-8") -> Iterator[Row]:
    """Yield the texts of one file, in order.

    Args:
        cut: Whether to cut a .txt file into documents even if it is small.
        encoding: Encoding of all files except Parquet.

    Raises:
        UserError: The file is damaged, in another encoding, not of its kind, or lacks a column.
    """
    suffix = suffix_of(path) or ""
    try:
        if suffix == ".parquet":
            yield from read_parquet(path, columns)
            return
        with open_utf8(path, encoding) as stream:
            match suffix.split(".")[1]:
                case "txt":
                    yield from read_text(path, stream, encoding, cut=cut)
                case "jsonl":
                    yield from read_json_lines(path, stream, columns, encoding)
                case "json":
                    yield from read_json(path, stream, columns, encoding)
                case kind:
                    yield from read_csv(path, stream, columns, encoding, delimiter="\t" if kind == "tsv" else ",")
    except UnicodeError as error:  # without a byte order mark, UTF-16 has no position of the error
        raise misencoded(path, encoding, error) from error
    except DAMAGE as error:
        raise unreadable(path, error) from error
