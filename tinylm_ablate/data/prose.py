"""Prose from documentation and long texts: without markup and repetitive sentences, cut into pieces."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator

#: Approximate characters per piece of a long text.
_PIECE = 6_000
#: Number of sentences to keep that differ only in names and numbers.
_TIMES = 2
#: Minimum bytes of a description that becomes a document: about 40 words of English, 80 characters of Chinese.
_LEAST_BYTES = 240

_BREAKS = re.compile(r"(?i)</?(?:p|li|ul|ol|dl|dt|dd|note|important|br|h\d|div|table|tr|pre)\b[^>]*>")
_TAGS = re.compile(r"<[^>]*>")
_LINKS = re.compile(r"\[([^\]\n]*)\]\((?:[^()\s]|\([^()\s]*\))*\)")
_SPACES = re.compile(r"[ \t\u00a0\u3000]+")
_BLANK = re.compile(r"\s*\n\s*")
#: The end of a sentence, or of a line.
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(A-Z0-9])|(?<=[。！？；])|\n")
#: Names and numbers in a sentence: words with capitals, digits or punctuation inside, numbers, and quotations.
_NAME = re.compile(r"""[`"“「『'][^`"”」』'\n]{1,80}[`"”」』']|\b\w*[A-Z0-9_]\w*(?:[-./:]\w+)*|[A-Za-z]\w*(?:[-./:_]\w+)+""")
_LATIN_IN_HAN = re.compile(r"[A-Za-z0-9_.:/-]+")
_HAN = re.compile("[\u4e00-\u9fff]")


def plain_text(markup: str) -> str:
    """HTML or Markdown -> text: paragraphs and list items on their own lines, links without addresses."""
    text = _TAGS.sub("", _BREAKS.sub("\n", markup)) if "<" in markup else markup
    text = _LINKS.sub(r"\1", html.unescape(text)).replace("**", "")
    return _BLANK.sub("\n", _SPACES.sub(" ", text)).strip()


class Thinner:
    """Filter that keeps the first sentences of each template, and drops those that differ only in names and numbers."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def __call__(self, text: str) -> str:
        """Return the new sentences of ``text``, in their lines."""
        lines = (self._kept(line) for line in text.split("\n"))
        return "\n".join(line for line in lines if line)

    def _kept(self, line: str) -> str:
        kept = [sentence for sentence in _SENTENCE.split(line) if sentence.strip() and self._fresh(sentence)]
        return ("" if kept and _HAN.search(kept[0]) else " ").join(kept).strip()

    def _fresh(self, sentence: str) -> bool:
        key = hash(template(sentence))
        count = self._seen.get(key, 0)
        self._seen[key] = count + 1
        return count < _TIMES


def template(sentence: str) -> str:
    """Mask names and numbers in a sentence, so that sentences that differ only in these are equal."""
    if _HAN.search(sentence):
        return _LATIN_IN_HAN.sub("#", sentence)
    first, _, rest = sentence.partition(" ")
    return f"{first.lower()} {_NAME.sub('#', rest)}"


def described(title: str, about: str, members: Iterable[tuple[str, str]], thin: Thinner) -> str:
    """Join the descriptions of an item and its members into one document; empty if too little is left after thinning.

    Members without remaining text are omitted.
    """
    lines = [thin(plain_text(about))]
    lines += [f"{name}: {text}" for name, said in members if (text := thin(plain_text(said)))]
    body = "\n".join(line for line in lines if line)
    return f"{title}\n{body}" if len(body.encode()) >= _LEAST_BYTES else ""


def pieces(text: str) -> Iterator[str]:
    """Cut a long text at line ends into pieces of about six thousand characters."""
    piece: list[str] = []
    size = 0
    for line in text.split("\n"):
        piece.append(line)
        size += len(line)
        if size >= _PIECE:
            yield "\n".join(piece)
            piece, size = [], 0
    if size:
        yield "\n".join(piece)
