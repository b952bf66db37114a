"""File formats: each file is read completely, refused with a message, or counted; nothing is dropped silently."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
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
from tinylm_ablate.data.corpus import open_corpus, passed_over
from tinylm_ablate.data.folder_walk import find_files
from tinylm_ablate.data.readers import read_rows
from tinylm_ablate.data.rows import Columns
from tinylm_ablate.data.sources import open_source
from tinylm_ablate.errors import UserError

Make = Callable[..., DataConfig]

TEXTS = ["first text, with a comma", "第二篇", 'third\n"quoted" text']
PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def texts_of(data: DataConfig, tmp_path: Path) -> list[str]:
    return [document.text for document in open_source(data, tmp_path / "cache").documents()]


def csv_of(texts: list[str], delimiter: str) -> bytes:
    lines = ["id" + delimiter + "text"] + [
        str(number) + delimiter + '"' + text.replace('"', '""') + '"' for number, text in enumerate(texts)
    ]
    return ("\r\n".join(lines) + "\r\n").encode()


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv"])
def test_every_table_in_every_compression(tmp_path: Path, data_config: Make, kind: str, packed: str) -> None:
    rows = [{"text": text} for text in TEXTS]
    content = {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        ".json": b"\xef\xbb\xbf" + json.dumps(rows, indent=1).encode(),
        ".csv": csv_of(TEXTS, ","),
        ".tsv": csv_of(TEXTS, "\t"),
    }[kind]
    path = tmp_path / f"t{kind}{packed}"
    path.write_bytes(PACK[packed](content))
    assert texts_of(data_config(path), tmp_path) == TEXTS


def test_json_with_one_object_per_line_is_read(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.json"
    path.write_text('\n{"text": "one"}\n{"text": "two"}\n')
    assert texts_of(data_config(path), tmp_path) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "t.json",
            b'{"text": [\n1]}',
            "line 1: is not JSON (Expecting value); each line must have one object, or the file one array",
        ),
        ("t.json", b'[{"text": "a"}, oops]', "t.json: is not JSON (Expecting value); the damage is at line 1"),
        ("t.json", b'"text"', "is not an array"),
        ("t.json", b'[{"text": "a"}, 3]', "entry 2: is not an object"),
        ("t.json", b'[{"body": "a"}]', "entry 1: has no column data.text_column=text; it has body"),
        ("t.csv", b"id,text\n1,a,b\n", "line 2: has 3 fields where the header has 2"),
        ("t.csv", b'id,text\n1,"a" b\n', "line 2: is not a valid row"),
        ("t.csv", b'id,text\n1,"a\n', "is not a valid row (unexpected end of data)"),
        ("t.csv", b"text,text\na,b\n", "has 2 columns named text (data.text_column)"),
        ("t.csv", b"a,b\n1,2\n", "has no column data.text_column=text; it has a, b"),
    ],
)
def test_broken_tables_are_refused_with_a_message(
    tmp_path: Path, data_config: Make, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        texts_of(data_config(tmp_path / name), tmp_path)
    assert said in str(error.value) and str(error.value).startswith(str(tmp_path / name))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40), max_size=20))
def test_csv_round_trips(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    import csv

    path = tmp_path_factory.getbasetemp() / "drawn.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["id", "text"], *([str(number), text] for number, text in enumerate(texts))])
    assert [row.text for row in read_rows(path, Columns("text", None), cut=False)] == texts


def test_gzip_with_zero_padding_and_several_members(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.jsonl.gz"
    members = [gzip.compress(json.dumps({"text": text}).encode() + b"\n") for text in TEXTS]
    path.write_bytes(b"".join(members) + bytes(1000))
    assert texts_of(data_config(path), tmp_path) == TEXTS
    path.write_bytes(b"".join(members) + b"garbage")
    with pytest.raises(UserError, match="is damaged or truncated"):
        texts_of(data_config(path), tmp_path)
    (tmp_path / "t.jsonl.zst").write_bytes(b"".join(zstandard.compress(gzip.decompress(member)) for member in members))
    assert texts_of(data_config(tmp_path / "t.jsonl.zst"), tmp_path) == TEXTS


def test_parquet_oddities(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.parquet"
    column = pa.array([*TEXTS, TEXTS[0], None])
    for text in (column, column.dictionary_encode(), column.cast(pa.large_string()), column.cast(pa.string_view())):
        pa.parquet.write_table(pa.table({"text": text, "lang": pa.array(["en"] * 5).dictionary_encode()}), path)
        data = data_config(path, language_column="lang")
        assert texts_of(data, tmp_path) == [*TEXTS, TEXTS[0], ""]
    nested = pa.table({"meta": [{"text": text} for text in TEXTS], "text": [[text] for text in TEXTS], "n": [1, 2, 3]})
    pa.parquet.write_table(nested, path)
    for name, kind in (("meta", "struct<text: string>"), ("text", "list<element: string>"), ("n", "int64")):
        with pytest.raises(UserError, match="not text") as error:
            texts_of(data_config(path, text_column=name), tmp_path)
        assert f"column {name} holds {kind}, not text" in str(error.value)
    with pytest.raises(UserError, match=r"has no column data\.text_column=meta\.text; it has meta, text, n"):
        texts_of(data_config(path, text_column="meta.text"), tmp_path)
    doubled = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pa.parquet.write_table(doubled, path)
    with pytest.raises(UserError, match="has 2 columns named text"):
        texts_of(data_config(path), tmp_path)
    pa.parquet.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert texts_of(data_config(path), tmp_path) == []


def test_links_are_followed_once_and_other_files_are_counted(tmp_path: Path, data_config: Make) -> None:
    folder, outside = tmp_path / "in", tmp_path / "outside"
    (folder / "a").mkdir(parents=True)
    outside.mkdir()
    (folder / "a" / "one.txt").write_text("one")
    (outside / "two.txt").write_text("two")
    (outside / "back").symlink_to(folder)  # a loop
    (folder / "linked").symlink_to(outside)
    (folder / "again").symlink_to(outside)
    (folder / "one more time.txt").symlink_to(folder / "a" / "one.txt")
    (folder / "nowhere.txt").symlink_to(tmp_path / "absent")
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "notes.md").write_text("# notes")
    (folder / "page.html").write_text("<p>")
    (folder / "more.MD").write_text("12")
    (folder / "LICENSE").write_text("x")
    (folder / "old.tar.GZ").write_text("1234")
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "blob").write_text("123")
    (folder / ".git" / "loop").symlink_to(folder)
    (folder / ".DS_Store").write_text("12")
    os.mkfifo(folder / "pipe.txt")
    found = find_files(folder)
    assert [path.relative_to(folder).as_posix() for path in found.files] == ["a/one.txt", "again/two.txt"]
    assert found.passed_over == {
        ".md": {"files": 2, "bytes": 9},
        ".html": {"files": 1, "bytes": 3},
        "without a suffix": {"files": 1, "bytes": 1},
        ".tar.gz": {"files": 1, "bytes": 4},
        "hidden": {"files": 3, "bytes": 5 + len(str(folder))},
        "broken links": {"files": 2, "bytes": 0},
        "links to files that are already read": {"files": 3, "bytes": 0},
        "neither file nor folder": {"files": 1, "bytes": 0},
    }
    [description] = open_source(data_config(folder), tmp_path / "cache").description()
    assert description["passed_over"] == found.passed_over and description["files"] == 2


def test_dropped_documents_and_skipped_files_are_reported(
    tmp_path: Path, data_config: Make, texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [*texts[:60], texts[0], "short"]
    (folder / "t.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    (folder / "notes.md").write_text("# notes")
    (folder / "more.zip").write_bytes(bytes(2000))
    data = data_config(folder)
    expected = {".md": {"files": 1, "bytes": 7}, ".zip": {"files": 1, "bytes": 2000}}
    assert passed_over(open_source(data, tmp_path / "cache").description()) == expected
    corpus = open_corpus(data, tmp_path / "cache")
    said = capsys.readouterr().err
    assert "text: 62 documents were read, 1 shorter than data.min_characters=50, 1 duplicates, 60 left" in said
    assert "not read: 1 .md (7 bytes), 1 .zip (2,000 bytes); supported formats: .txt .jsonl" in said
    assert passed_over(corpus.summary["sources"]) == expected
    open_corpus(data, tmp_path / "cache")
    assert capsys.readouterr().err == ""
    (folder / "later.docx").write_text("123")  # the text is the same, so it is not built again
    corpus = open_corpus(data, tmp_path / "cache")
    assert passed_over(corpus.summary["sources"]) == expected | {".docx": {"files": 1, "bytes": 3}}
