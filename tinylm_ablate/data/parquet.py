"""Rows of a Parquet file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tinylm_ablate.data.rows import Columns, Row, text_of
from tinylm_ablate.errors import UserError

_ROWS = 256


def read_parquet(path: Path, columns: Columns) -> Iterator[Row]:
    """Yield the rows in order, reading a few hundred at a time; text may be dictionary-encoded.

    Raises:
        UserError: The file is damaged, or a column is missing, duplicated, or not text.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(str(path), buffer_size=1 << 20)  # otherwise it holds a whole row group
    except PermissionError:
        raise
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: is damaged, truncated, or not a Parquet file ({error}). Create or download it again"
        ) from error
    number = 0
    with file:
        columns.check(str(path), file.schema_arrow.names)
        kind = file.schema_arrow.field(columns.text).type
        if not _is_text(kind):
            raise UserError(f"{path}: column {columns.text} holds {kind}, not text; set data.text_column to a column of text")
        try:
            for batch in file.iter_batches(batch_size=_ROWS, columns=columns.wanted):
                texts = batch.column(columns.text).to_pylist()
                languages = batch.column(columns.language).to_pylist() if columns.language else [None] * len(texts)
                for text, language in zip(texts, languages, strict=True):
                    number += 1
                    place = f"row {number:,}"
                    yield Row(text_of(path, place, columns.text, text), language, place)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: is damaged after row {number:,} ({error}). Create or download it again") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}: column {columns.text} is not UTF-8 after row {number:,} ({error.reason}). Rewrite it in UTF-8"
            ) from error


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind))
