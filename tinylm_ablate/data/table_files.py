"""Tables in text files: .jsonl, .json arrays, .csv and .tsv."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

from tinylm_ablate.data.opening import decode
from tinylm_ablate.data.rows import MAX_ROW_BYTES, Columns, Row, text_of
from tinylm_ablate.errors import UserError


def read_json_lines(path: Path, stream: BufferedReader, columns: Columns, encoding: str) -> Iterator[Row]:
    """Yield the rows of a file with one object per line."""
    for number, text in _lines(path, stream, encoding):
        if text.strip():
            place = f"line {number:,}"
            yield _row(path, place, columns, _parse(path, f", {place}", text))


def read_json(path: Path, stream: BufferedReader, columns: Columns, encoding: str) -> Iterator[Row]:
    """Yield the rows of an array, which is read as a whole; a file with one object per line is read like .jsonl."""
    if stream.peek(1).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{":
        yield from read_json_lines(path, stream, columns, encoding)
        return
    content = stream.read(MAX_ROW_BYTES + 1)
    if len(content) > MAX_ROW_BYTES:
        raise UserError(
            f"{path}: .json arrays of more than {MAX_ROW_BYTES:,} bytes are not supported; "
            f"convert it to one object per line: jq -c '.[]' {path} > {path.stem}.jsonl"
        )
    rows = _parse(path, "", decode(path, content, 0, encoding).removeprefix("\ufeff"))
    if not isinstance(rows, list):
        raise UserError(f'{path}: is not an array; expected [{{"{columns.text}": "…"}}, …]')
    for number, row in enumerate(rows, start=1):
        yield _row(path, f"entry {number:,}", columns, row)


def read_csv(path: Path, stream: BufferedReader, columns: Columns, encoding: str, *, delimiter: str) -> Iterator[Row]:
    """Yield the rows of a table with a header; quoted fields may contain line ends, delimiters and doubled quotes."""
    csv.field_size_limit(MAX_ROW_BYTES)
    rows = csv.reader((text for _, text in _lines(path, stream, encoding)), delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        columns.check(str(path), header)
        text_place = header.index(columns.text)
        language_place = header.index(columns.language) if columns.language else None
        for row in rows:
            if not row:
                continue
            place = f"line {rows.line_num:,}"
            if len(row) != len(header):
                raise UserError(
                    f"{path}, {place}: has {len(row)} fields where the header has {len(header)}; "
                    'put text with delimiters or line ends in "double quotes"'
                )
            language = row[language_place] if language_place is not None else None
            yield Row(text_of(path, place, columns.text, row[text_place]), language, place)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num:,}: is not a valid row ({error}); fix its quotes") from error


def _lines(path: Path, stream: BufferedReader, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield the lines with their numbers, including line ends."""
    number = start = 0
    while line := stream.readline(MAX_ROW_BYTES):
        number += 1
        if len(line) == MAX_ROW_BYTES:
            raise UserError(f"{path}, line {number:,}: is longer than {MAX_ROW_BYTES:,} bytes, the maximum size of a row")
        yield number, decode(path, line, start, encoding).removeprefix("\ufeff" if number == 1 else "")
        start += len(line)


def _parse(path: Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        if place:
            array = ", or the file one array" if ".json" in map(str.lower, path.suffixes) else ""
            fix = f"each line must have one object{array}; fix or delete the line"
        else:
            fix = f"the damage is at line {error.lineno:,}" if isinstance(error, json.JSONDecodeError) else "fix the file"
        raise UserError(f"{path}{place}: is not JSON ({reason}); {fix}") from error


def _row(path: Path, place: str, columns: Columns, row: Any) -> Row:
    if not isinstance(row, dict):
        raise UserError(f'{path}, {place}: is not an object; expected {{"{columns.text}": "…"}}')
    columns.check(f"{path}, {place}", list(row))
    text = text_of(path, place, columns.text, row[columns.text])
    return Row(text, row[columns.language] if columns.language else None, place)
