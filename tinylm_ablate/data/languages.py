"""Which language a document is in: told by its owner, or else by its script.

Telling by the script needs no model and gives the same answer everywhere, but it is what it says: "zh" is text more than
half of whose letters are Han, "en" is text more than half of whose letters are unaccented Latin (so French counts as "en"
too), and everything else is "other". Whoever has finer labels gives them by ``data.language_column`` or ``data.language``.
"""

from __future__ import annotations

import re

from tinylm_ablate.errors import UserError

#: Characters that are looked at, spread evenly over the document.
_SAMPLE = 1000

_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN = re.compile("[A-Za-z]")
_LABEL = re.compile(r"[\w.-]{1,32}")


def script_language(text: str) -> str:
    """ "zh", "en" or "other", by the script of about a thousand characters spread over ``text``."""
    sample = text[:: max(1, len(text) // _SAMPLE)]
    if sample.isascii():  # the usual case, told without counting
        return "en" if _LATIN.search(sample) else "other"
    letters = sum(map(str.isalpha, sample))
    if 2 * len(_HAN.findall(sample)) > letters:
        return "zh"
    return "en" if 2 * len(_LATIN.findall(sample)) > letters else "other"


def is_label(value: str) -> bool:
    """Whether ``value`` can name a language in tables, metrics and files; "all" is the name of their sum."""
    return value != "all" and _LABEL.fullmatch(value) is not None


def label(text: str, given: object, where: str) -> str:
    """The language of a document whose column says ``given``; by the script where the column is empty.

    Args:
        where: The column, and where the document stands, for the message.

    Raises:
        UserError: The column holds something that is no label.
    """
    if given is None or given == "":
        return script_language(text)
    if not isinstance(given, str) or not is_label(given):
        raise UserError(
            f"{where}: {given!r} is no language; allowed: a word of letters, digits, '.', '_' and '-', at most 32 of them, "
            "other than 'all'. Set data.language_column to another column, or to null."
        )
    return given
