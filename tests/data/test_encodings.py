"""Files that are not UTF-8: the suggested conversion gives the right text, and data.encoding reads them directly."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.corpus import text_fingerprint
from tinylm_ablate.data.encodings import conversion, likely_encoding
from tinylm_ablate.data.readers import read_rows
from tinylm_ablate.data.rows import Columns
from tinylm_ablate.data.sources import open_source
from tinylm_ablate.errors import ConfigError, UserError

Make = Callable[..., DataConfig]

GERMAN = "Für die Straße über den Fluß müssen wir größere Brücken bauen. Äpfel, Öl und Übermut.\n" * 4
CHINESE = "风吹过水面没有人说起那个漫长的冬天里失去的一切，后来春天来了。城里的人们又走到河边看船。\n" * 4
FRENCH = "Où est passé l'été à Noël, garçon ? Ça coûte cher, le bœuf là-bas.\n" * 4


def texts_of(data: DataConfig, tmp_path: Path) -> list[str]:
    return [document.text for document in open_source(data, tmp_path / "cache").documents()]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (GERMAN, "latin-1"), (GERMAN, "utf-16"), (GERMAN, "utf-16-le"), (CHINESE, "gb18030"), (CHINESE, "utf-16"),
        (FRENCH, "cp1252"), ("Это русский текст о зиме и весне.\n" * 5, "cp1251"),
        ("これはひらがなのぶんしょうです。漢字も使う。\n" * 5, "shift_jis"),
        ("風吹過水面沒有人說起那個漫長的冬天。\n" * 5, "big5"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_the_suggestion_gives_the_right_text(tmp_path: Path, data_config: Make, text: str, encoding: str, packed: bool) -> None:
    path = tmp_path / ("a text.txt.gz" if packed else "a text.txt")
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(UserError) as error:
        texts_of(data_config(path), tmp_path)
    message = str(error.value)
    suggested = re.search(r"set data\.encoding=(\S+), or convert it and replace it by the copy: (.*)$", message)
    assert suggested is not None, message
    assert "".join(texts_of(data_config(path, encoding=suggested[1]), tmp_path)) == text
    subprocess.run(["sh", "-c", suggested[2]], check=True, timeout=60)
    assert "".join(texts_of(data_config(tmp_path / "a text.utf8.txt"), tmp_path)) == text


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        # German has no letter that differs between cp1250 and cp1252, but the rest of the file may.
        (GERMAN, "latin-1", "cp1252"),
        ("Perché la città è così più bella? Verrà lunedì.\n" * 4, "latin-1", "cp1252"),
        ("A kőműves örömében énekelt, és a gyerekek nevettek az udvaron.\n" * 4, "cp1250", "cp1250"),
        ("Să mergem în pădure, unde cântă păsările; mâine va fi frumos.\n" * 4, "cp1250", "cp1250"),
        ("Güneş doğdu, çocuklar ağaçların altında oynuyor ve şarkı söylüyor.\n" * 4, "cp1254", "cp1254"),
    ],
)
def test_the_language_decides_between_encodings_with_the_same_letters(text: str, encoding: str, guess: str) -> None:
    assert likely_encoding(text.encode(encoding)) == guess


def test_copies_have_names_of_their_own() -> None:
    commands = [conversion(Path("a") / name, "cp1252", "gzip -dc" if name.endswith("gz") else None)
                for name in ("b.de.txt", "b.fr.txt", "c.1.txt.gz")]  # fmt: skip
    assert [command.split("> ")[1] for command in commands] == ["a/b.de.utf8.txt", "a/b.fr.utf8.txt", "a/c.1.utf8.txt"]


def test_encoding_of_tables_and_its_place_in_the_fingerprint(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.jsonl"
    rows = [{"text": CHINESE}, {"text": "second"}]
    path.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("gb18030"))
    assert texts_of(data_config(path, encoding="gb18030"), tmp_path) == [CHINESE, "second"]
    prints = {text_fingerprint(data_config(path, encoding=name), tmp_path / "cache") for name in ("utf-8", "UTF8", "gb18030")}
    assert len(prints) == 2
    with pytest.raises(UserError, match=r"is not shift_jis .* Set data\.encoding"):
        texts_of(data_config(path, encoding="shift_jis"), tmp_path)
    with pytest.raises(ConfigError, match=r"data\.encoding=base64: allowed: a text encoding"):
        texts_of(data_config(path, encoding="base64"), tmp_path)


@pytest.mark.parametrize("encoding", ["gb18030", "cp1252", "latin-1", "big5", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("text", [GERMAN, CHINESE, "plain " * 50_000 + FRENCH])
def test_a_file_in_utf8_is_not_read_in_another_encoding(tmp_path: Path, data_config: Make, text: str, encoding: str) -> None:
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    message = (
        rf"t\.txt: is not {encoding} \((it is UTF-8|UTF-16 stream .* BOM)\)\. .*convert files in different encodings to UTF-8"
    )
    with pytest.raises(UserError, match=message):
        texts_of(data_config(tmp_path / "t.txt", encoding=encoding), tmp_path)


def test_bytes_that_are_not_text(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(b"text " * 20 + b"\0" + b" text" * 20)
    with pytest.raises(UserError, match=r"has a zero byte, .* at byte 100 .*remove the zero bytes"):
        texts_of(data_config(path), tmp_path)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\r"), max_size=200), st.integers(1, 7))
def test_recoding_loses_nothing_at_the_ends_of_chunks(tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int) -> None:
    from tinylm_ablate.data import encodings

    path = tmp_path_factory.getbasetemp() / "recoded.txt"
    path.write_bytes(text.encode("gb18030"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encodings, "_CHUNK", chunk)
        rows = list(read_rows(path, Columns("text", None), cut=True, encoding="gb18030"))
    assert "".join(row.text for row in rows) == text
