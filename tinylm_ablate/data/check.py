"""The mistakes of the ``data`` group that need more than one of its values, told before anything is read."""

from __future__ import annotations

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.encodings import is_text_encoding, is_utf8
from tinylm_ablate.data.languages import is_label


def data_mistakes(data: DataConfig) -> list[str]:
    """One line a mistake, of the form "key=value: what is allowed"."""
    mistakes = []
    if data.source == "files" and not data.path:
        mistakes.append("data.path=null: data=files needs data.path=FILE_OR_FOLDER")
    if data.source == "hub" and not data.name:
        mistakes.append("data.name=null: data=hub needs data.name=NAME")
    # A path that is given but not read would train on other text than its owner thinks.
    if data.source != "files" and data.path:
        mistakes.append(f"data.path={data.path}: allowed with data=files, which reads it; data.source={data.source} does not")
    if data.source != "hub" and data.name:
        mistakes.append(f"data.name={data.name}: allowed with data=hub, which reads it; data.source={data.source} does not")
    if not is_text_encoding(data.encoding):
        mistakes.append(f"data.encoding={data.encoding}: allowed: an encoding of text such as utf-8, gb18030, cp1252 or utf-16")
    elif data.source != "files" and not is_utf8(data.encoding):
        mistakes.append(
            f"data.encoding={data.encoding}: allowed with data=files, which reads it; data.source={data.source} does not"
        )
    if data.source == "default" and data.language != "auto":
        mistakes.append(f"data.language={data.language}: allowed with data=default: auto, since that text knows its languages")
    if data.source == "default" and data.language_column:
        mistakes.append(f"data.language_column={data.language_column}: allowed with data=files or data=hub")
    if data.language != "auto" and not is_label(data.language):
        mistakes.append(
            f"data.language={data.language}: allowed: auto, or letters, digits, '.', '_' and '-', at most 32, and not 'all'"
        )
    if data.language != "auto" and data.language_column:
        mistakes.append(
            f"data.language={data.language}: allowed: auto, as data.language_column={data.language_column} gives the language"
        )
    return mistakes
