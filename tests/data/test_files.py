from __future__ import annotations

import dataclasses
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data import cutting
from tinylm_ablate.data.corpus import text_fingerprint
from tinylm_ablate.data.languages import identify
from tinylm_ablate.data.readers import read_rows
from tinylm_ablate.data.rows import Columns
from tinylm_ablate.data.sources import open_source
from tinylm_ablate.errors import UserError

Make = Callable[..., DataConfig]

ROWS = [{"text": "first text", "lang": "en"}, {"text": "第二篇", "lang": "zh"}, {"text": "third", "lang": None}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def pack(content: bytes, suffix: str) -> bytes:
    return {".gz": gzip.compress, ".zst": zstandard.compress}.get(suffix, bytes)(content)


def read(data: DataConfig, tmp_path: Path) -> list[tuple[str, str]]:
    return [(document.text, document.language) for document in open_source(data, tmp_path / "cache").documents()]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_json_lines(tmp_path: Path, data_config: Make, packed: str) -> None:
    path = tmp_path / f"t.jsonl{packed}"
    path.write_bytes(pack(b"\xef\xbb\xbf" + LINES.replace(b"}\n", b"}\r\n") + b"\n  \n", packed))
    assert read(data_config(path, language_column="lang"), tmp_path) == [
        ("first text", "en"),
        ("第二篇", "zh"),
        ("third", "en"),
    ]


def test_parquet(tmp_path: Path, data_config: Make) -> None:
    table = pa.table({"body": [row["text"] for row in ROWS] + [None], "lang": ["en", "zh", None, "de"], "n": [1, 2, 3, 4]})
    pa.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    data = data_config(tmp_path / "t.parquet", text_column="body", language_column="lang")
    assert read(data, tmp_path) == [("first text", "en"), ("第二篇", "zh"), ("third", "en"), ("", "de")]
    assert [language for _, language in read(data_config(tmp_path / "t.parquet", text_column="body"), tmp_path)] == [
        "en", "zh", "en", "other",
    ]  # fmt: skip


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_folder_in_the_order_of_names(tmp_path: Path, data_config: Make, packed: str) -> None:
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b/two.txt", "c.txt", "a.txt"):
        (folder / f"{name}{packed}").write_bytes(pack(f"text of {name}\r\n\r\nsecond paragraph\n".encode(), packed))
    (folder / "README.md").write_text("not text to train on")
    (folder / ".hidden" / "x.txt").write_text("hidden")
    (folder / "b-first.jsonl").write_bytes(LINES)
    texts = [text for text, _ in read(data_config(folder, language="xx"), tmp_path)]
    assert texts[0] == "text of a.txt\n\nsecond paragraph\n"
    assert [text.split("\n")[0] for text in texts] == [
        "text of a.txt", "text of b/two.txt", "first text", "第二篇", "third", "text of c.txt",
    ]  # fmt: skip


def test_a_single_txt_is_cut_but_small_ones_in_a_folder_are_not(tmp_path: Path, data_config: Make) -> None:
    paragraphs = [f"Paragraph {number}. " + "words and more words. " * 30 for number in range(60)]
    book = "\n\n".join(paragraphs)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "book.txt").write_text(book)
    assert [text for text, _ in read(data_config(tmp_path / "folder"), tmp_path)] == [book]
    alone = [text for text, _ in read(data_config(tmp_path / "folder" / "book.txt"), tmp_path)]
    assert "".join(alone) == book
    assert 5 < len(alone) < 20 and all(text.startswith("Paragraph ") for text in alone)
    (tmp_path / "folder" / "book.txt").write_text(book * 3)
    assert len(read(data_config(tmp_path / "folder"), tmp_path)) > 20
    # A single file and a folder with that file are cut differently, so they are different corpora.
    cache = tmp_path / "cache"
    assert text_fingerprint(data_config(tmp_path / "folder"), cache) != text_fingerprint(
        data_config(tmp_path / "folder" / "book.txt"), cache
    )


@given(
    st.lists(st.sampled_from(["a", "é", "风", "𠮷", "\n", "\n\n", " ", "word " * 40, "长" * 100]), max_size=300), st.booleans()
)
def test_cutting_loses_nothing(tmp_path_factory: pytest.TempPathFactory, parts: list[str], no_lines: bool) -> None:
    text = "".join(parts)
    text = text.replace("\n", "") * 5 if no_lines else text
    path = tmp_path_factory.getbasetemp() / "cut.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "_CUT_BYTES", 50)
        patch.setattr(cutting, "_CUT_AT_LINE_BYTES", 200)
        patch.setattr(cutting, "_CUT_ANYWHERE_BYTES", 500)
        patch.setattr(cutting, "WHOLE_BYTES", 1000)
        rows = list(read_rows(path, Columns("text", None), cut=True))
    assert "".join(row.text for row in rows) == text
    assert all(len(row.text.encode()) <= 200 + 500 for row in rows)
    places = [int(row.place.removeprefix("byte ").replace(",", "")) for row in rows]
    assert [text.encode()[place : place + 4] for place in places] == [row.text.encode()[:4] for row in rows]


def test_hash_of_a_file_is_kept_until_the_file_changes(tmp_path: Path, data_config: Make) -> None:
    path, cache = tmp_path / "t.jsonl", tmp_path / "cache"
    path.write_bytes(LINES)
    data = data_config(path)
    first = text_fingerprint(data, cache)
    store = cache / "text" / "hashes.json"
    assert not store.exists()  # too fresh to be trusted
    os.utime(path, ns=(1, 1))  # the change time stays fresh
    assert text_fingerprint(data, cache) == first and not store.exists()
    path.write_bytes(LINES.replace(b"first", b"FIRST"))
    os.utime(path, ns=(1, 1))
    assert text_fingerprint(data, cache) != first


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The quick brown fox.", "en"),
        ("风吹过水面，没有人说话。", "zh"),
        ("GPT 模型在中文上的表现如何", "zh"),
        ("Это русский текст", "ru"),
        ("これはひらがなのぶんしょうです", "ja"),
        ("", "other"),
        ("1234 !?", "other"),
        ("𠀀𠀁𠀂", "zh"),
        ("Café déjà vu", "fr"),
        ("a" * 5000 + "水" * 6000, "zh"),
        ("Der schnelle braune Fuchs springt über den faulen Hund und läuft dann weiter.", "de"),
        ("Le renard brun saute par-dessus le chien paresseux, et la nuit tombe sur la ville.", "fr"),
        ("CreateInstanceRequest InstanceType: 实例的类型，见 DescribeInstanceTypes 接口 ImageId: 镜像的标识", "zh"),
        ("Order 4711: 3 x item", "en"),
    ],
)
def test_language_by_script(text: str, language: str) -> None:
    assert identify(text) == language


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "files", "path": None}, "data.path=null: data=files needs data.path"),
        ({"source": "hub", "path": None, "name": None}, "data.name=null: data=hub needs data.name"),
        ({"source": "default"}, "allowed with data=files"),
        ({"name": "some/set"}, "data.name=some/set: allowed with data=hub"),
        ({"language": "all"}, "data.language=all: allowed: auto, or letters"),
        ({"language": "en us"}, "data.language=en us: allowed"),
        ({"language": "en", "language_column": "lang"}, "data.language_column=lang gives the language"),
    ],
)
def test_contradictions_are_reported_before_anything_is_read(
    tmp_path: Path, data_config: Make, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as error:
        text_fingerprint(dataclasses.replace(data_config(tmp_path / "none.txt"), **change), tmp_path)
    assert message in str(error.value)
