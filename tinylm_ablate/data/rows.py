"""Rows of tables: text, language and position, and the checks that all formats share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError

#: Maximum bytes per row of a table; a longer row is not a document.
MAX_ROW_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Row:
    """Text, value of the language column (None without one), and position in the file."""

    text: str
    language: object
    place: str


@dataclass(frozen=True)
class Columns:
    """Columns to read."""

    text: str
    language: str | None

    @property
    def wanted(self) -> list[str]:
        """Names of the columns."""
        return [self.text] + ([self.language] if self.language else [])

    def check(self, where: str, there: list[str]) -> None:
        """Refuse a table without these columns, or with several of one name.

        Raises:
            UserError: With the columns that there are.
        """
        for key, name in (("data.text_column", self.text), ("data.language_column", self.language)):
            if name is None:
                continue
            if name not in there:
                raise UserError(f"{where}: has no column {key}={name}; it has {', '.join(map(str, there)) or 'none'}")
            if there.count(name) > 1:
                raise UserError(
                    f"{where}: has {there.count(name)} columns named {name} ({key}); rename them, or set {key} to another"
                )


def text_of(path: Path, place: str, column: str, value: Any) -> str:
    """Return the text of a row; a missing text is empty, and dropped as too short.

    Raises:
        UserError: The value is not text, or cannot be encoded in UTF-8.
    """
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
            f"{path}, {place}: column {column} has an unpaired surrogate, {value[error.start]!a} at position {error.start}, "
            "which UTF-8 cannot represent; fix the escape"
        ) from error
    return value
