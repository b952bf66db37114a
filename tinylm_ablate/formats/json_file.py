"""Reading of users' JSON files, with limits on size and nesting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError

#: Maximum size of a JSON file: three times the largest tokenizer.json of a public model. Parsing takes several times as much.
MOST_BYTES = 100_000_000


def read_bytes(path: Path, remedy: str = "copy it again") -> bytes:
    """Read a file that is small enough to parse; ``remedy`` is the end of error messages."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: {path.stat().st_size:,} bytes; allowed: at most {MOST_BYTES:,}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error


def parse_object(content: bytes | str, path: Path, remedy: str = "copy it again") -> dict[str, Any]:
    """Parse the content of a file as a JSON object."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {remedy}") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{path}: not a JSON object; {remedy}")
    return parsed


def read_object(path: Path, remedy: str = "copy it again") -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        UserError: The file is missing, too large, or not a JSON object; the message ends with ``remedy``.
    """
    return parse_object(read_bytes(path, remedy), path, remedy)
