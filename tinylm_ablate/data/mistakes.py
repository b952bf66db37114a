"""Mistakes in the ``data`` group that involve several of its values, found before anything is read."""

from __future__ import annotations

import math

from tinylm_ablate import extension
from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.encodings import is_text_encoding, is_utf8
from tinylm_ablate.data.languages import is_label

_READS = {"path": "files", "name": "hub", "sources": "mixture"}
#: Sources whose documents have known languages.
_BUILT_IN = ("auto", "default", "large")


def data_mistakes(data: DataConfig) -> list[str]:
    """Return one line per mistake, of the form "key=value: what is allowed"."""
    mistakes = []
    # Ignoring a setting would train on other text than the user expects.
    for key, source in _READS.items():
        value = getattr(data, key)
        if value and data.source != source:
            mistakes.append(f"data.{key}={value}: allowed with data={source}; data.source={data.source} does not use it")
    if data.source == "files" and not data.path:
        mistakes.append("data.path=null: data=files needs data.path=FILE_OR_FOLDER")
    if data.source == "hub" and not data.name:
        mistakes.append("data.name=null: data=hub needs data.name=NAME")
    if data.source == "mixture" and not data.sources:
        mistakes.append("data.sources={}: data=mixture needs data.sources={NAME: WHERE, …}")
    if not is_text_encoding(data.encoding):
        mistakes.append(f"data.encoding={data.encoding}: allowed: a text encoding such as utf-8, gb18030, cp1252 or utf-16")
    elif data.source not in ("files", "mixture") and not is_utf8(data.encoding):
        mistakes.append(f"data.encoding={data.encoding}: allowed with data=files; data.source={data.source} does not use it")
    mistakes += extension.mistakes(data.own, "data.own", data.source == "own", "data.source=own", ("documents",))
    return mistakes + _language_mistakes(data) + _mixture_mistakes(data)


def _language_mistakes(data: DataConfig) -> list[str]:
    mistakes = []
    if data.source in _BUILT_IN and data.language != "auto":
        mistakes.append(f"data.language={data.language}: allowed with data={data.source}: auto, since its languages are known")
    if data.source in _BUILT_IN and data.language_column:
        mistakes.append(f"data.language_column={data.language_column}: allowed with data=files, data=hub or data=mixture")
    if data.language != "auto" and not is_label(data.language):
        mistakes.append(
            f"data.language={data.language}: allowed: auto, or letters, digits, '.', '_' and '-', at most 32, and not 'all'"
        )
    if data.language != "auto" and data.language_column:
        mistakes.append(
            f"data.language={data.language}: allowed: auto, as data.language_column={data.language_column} gives the language"
        )
    return mistakes


def _mixture_mistakes(data: DataConfig) -> list[str]:
    mistakes = [
        f"data.sources={name}: allowed: names of letters, digits, '.', '_' and '-', at most 32, and not 'all'"
        for name in data.sources
        if not is_label(name)
    ]
    wrong = {name: value for name, value in data.weights.items() if not math.isfinite(value) or value < 0}
    if wrong:
        mistakes.append(f"data.weights={wrong}: allowed: numbers that are at least 0")
    elif data.weights and not sum(data.weights.values()) > 0:
        mistakes.append(f"data.weights={dict(data.weights)}: allowed: at least one above 0")
    return mistakes
