"""Language of a document: set by the user, or identified from its text, offline.

py3langid, whose model is part of its package, identifies languages. Text in Han characters without kana is always "zh", and
text with uncertain language is labeled by its script: "en" for unaccented Latin letters, "other" for the rest. The user's
labels (``data.language_column`` or ``data.language``) take precedence.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from tinylm_ablate.errors import UserError

#: Label of languages with little text, and of text in no language.
OTHER = "other"
#: Characters to examine, spread evenly over a document: single ones for the script, pieces for the language.
_SAMPLE = 1000
_PIECE = 100
#: Below this probability, the identifier is guessing: single words, tables, formulas.
_SURE = 0.3

#: Varieties of Chinese, which Han characters alone do not distinguish, and labels of no language.
_RENAMED = {"wuu": "zh", "yue": "zh", "zxx": OTHER}

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KANA = re.compile("[\u3040-\u30ff]")
_LATIN = re.compile("[A-Za-z]")
_LABEL = re.compile(r"[\w.-]{1,32}")


def identify(text: str) -> str:
    """Identify the language of ``text`` from about a thousand characters spread over it: an ISO 639 code, or "other"."""
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
    """Return whether ``value`` can name a language in tables, metrics and files; "all" is reserved for their sum."""
    return value != "all" and _LABEL.fullmatch(value) is not None


def label(text: str, given: object, where: str) -> str:
    """Return the language of a document with the label ``given``; identified if the label is empty.

    Args:
        where: Column and position of the document, for the message.

    Raises:
        UserError: The column contains an invalid label.
    """
    if given is None or given == "":
        return identify(text)
    if not isinstance(given, str) or not is_label(given):
        raise UserError(
            f"{where}: {given!r} is not a valid language; allowed: letters, digits, '.', '_' and '-', at most 32 characters, "
            "other than 'all'. Set data.language_column to another column, or to null."
        )
    return given
