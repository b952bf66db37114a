"""Language of a document: named by its owner, or else identified from its text, offline.

Identification is by py3langid, whose model ships in its package. Text in Han characters without kana is "zh" before it is
asked, and text that it is not sure about is named by its script: "en" for unaccented Latin letters, "other" for the rest.
Labels of the user (``data.language_column`` or ``data.language``) win over all of this.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from tinylm_ablate.errors import UserError

#: What languages with little text, and text in none, are called.
OTHER = "other"
#: Characters that are looked at, spread evenly over a document: single ones for the script, pieces for the language.
_SAMPLE = 1000
_PIECE = 100
#: Below this probability the identifier guesses: single words, tables, formulas.
_SURE = 0.3

#: Varieties of Chinese, which Han characters alone do not distinguish either, and what is no language.
_RENAMED = {"wuu": "zh", "yue": "zh", "zxx": OTHER}

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3040-\u30ff]")
_LATIN = re.compile("[A-Za-z]")
_LABEL = re.compile(r"[\w.-]{1,32}")


def identify(text: str) -> str:
    """The ISO 639 code of the language of ``text``, judged by about a thousand characters spread over it, or "other"."""
    characters = text[:: max(1, len(text) // _SAMPLE)]
    letters = sum(map(str.isalpha, characters))
    if not letters:
        return OTHER
    if 2 * len(_HAN.findall(characters)) > letters and not _KANA.search(characters):
        return "zh"
    language, probability = _identifier().classify(_pieces(text))
    if probability >= _SURE:
        return _RENAMED.get(language, str(language))
    return "en" if 2 * len(_LATIN.findall(characters)) > letters else OTHER


def _pieces(text: str) -> str:
    if len(text) <= _SAMPLE:
        return text
    step = len(text) / (_SAMPLE // _PIECE)
    return " ".join(text[start : start + _PIECE] for start in (int(place * step) for place in range(_SAMPLE // _PIECE)))


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def is_label(value: str) -> bool:
    """Return whether ``value`` can name a language in tables, metrics and files; "all" is the name of their sum."""
    return value != "all" and _LABEL.fullmatch(value) is not None


def label(text: str, given: object, where: str) -> str:
    """The language of a document whose column says ``given``; identified where the column is empty.

    Args:
        where: The column, and where the document stands, for the message.

    Raises:
        UserError: The column holds something that is no label.
    """
    if given is None or given == "":
        return identify(text)
    if not isinstance(given, str) or not is_label(given):
        raise UserError(
            f"{where}: {given!r} is no language; allowed: a word of letters, digits, '.', '_' and '-', at most 32 of them, "
            "other than 'all'. Set data.language_column to another column, or to null."
        )
    return given
