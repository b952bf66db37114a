"""Data sets in the hub's layout, in a local folder: a README with configs, and data files."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tinylm_ablate.config import Config, DataConfig
from tinylm_ablate.data.corpus import SPLITS, open_corpus, passed_over, text_fingerprint
from tinylm_ablate.data.sources import open_source
from tinylm_ablate.errors import UserError

CARD = """---
license: cc0-1.0
configs:
- config_name: small
  default: true
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: held
    path: data/held.parquet
- config_name: rows
  data_files: rows/*.parquet
---
# A set
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "set"
    (folder / "data").mkdir(parents=True)
    (folder / "rows").mkdir()
    (folder / "README.md").write_text(CARD)
    languages = ["en" if number % 2 == 0 else "zh" for number in range(len(texts))]
    for part, (start, end) in enumerate(((0, 150), (150, 300))):
        table = pa.table({"id": list(range(start, end)), "content": texts[start:end], "lang": languages[start:end]})
        pa.parquet.write_table(table, folder / "data" / f"train-{part}-of-2.parquet", row_group_size=40)
    pa.parquet.write_table(pa.table({"content": texts[300:], "lang": languages[300:]}), folder / "data" / "held.parquet")
    pa.parquet.write_table(pa.table({"text": ["a row of the other configuration"]}), folder / "rows" / "a.parquet")
    return folder


@pytest.fixture(scope="module")
def hub(folder: Path, compose: Callable[[list[str]], Config]) -> DataConfig:
    shares = ["data.validation_share=0.2", "data.test_share=0.2"]
    return compose(["data=hub", f"data.name={folder}", "data.text_column=content", *shares]).data


@pytest.mark.parametrize("streaming", [True, False])
def test_split_of_a_set(hub: DataConfig, tmp_path: Path, texts: list[str], streaming: bool) -> None:
    data = dataclasses.replace(hub, streaming=streaming, language_column="lang")
    documents = list(open_source(data, tmp_path).documents())
    assert [document.text for document in documents] == texts[:300]
    assert [document.language for document in documents[:4]] == ["en", "zh", "en", "zh"]
    held = open_source(dataclasses.replace(data, split="held", language_column=None), tmp_path).documents()
    assert [(document.text, document.language) for document in held] == [
        (text, "zh" if number % 2 else "en") for number, text in enumerate(texts[300:])
    ]
    rows = dataclasses.replace(data, subset="rows", text_column="text", language_column=None, language="xx")
    assert [(document.text, document.language) for document in open_source(rows, tmp_path).documents()] == [
        ("a row of the other configuration", "xx")
    ]


def test_streaming_and_downloading_give_the_same_corpus(hub: DataConfig, tmp_path: Path) -> None:
    streamed = open_corpus(dataclasses.replace(hub, streaming=True), tmp_path / "one")
    downloaded = open_corpus(hub, tmp_path / "two")
    assert streamed.fingerprint == downloaded.fingerprint
    for split in SPLITS:
        assert (streamed.folder / f"{split}.parquet").read_bytes() == (downloaded.folder / f"{split}.parquet").read_bytes()
    assert not list((tmp_path / "one").rglob("*.arrow")) and list((tmp_path / "two" / "hub").rglob("*.arrow"))


def test_streaming_stops_at_max_documents(hub: DataConfig, tmp_path: Path) -> None:
    corpus = open_corpus(dataclasses.replace(hub, streaming=True, max_documents=50), tmp_path)
    assert corpus.summary["read"] == 50


def test_the_fingerprint_depends_on_name_subset_split_and_revision(hub: DataConfig, tmp_path: Path) -> None:
    remote = dataclasses.replace(hub, name="somebody/some-set")
    changes = (
        {},
        {"revision": "abc"},
        {"split": "held"},
        {"subset": "rows"},
        {"text_column": "text"},
        {"name": "somebody/other"},
    )
    assert len({text_fingerprint(dataclasses.replace(remote, **change), tmp_path) for change in changes}) == 6
    assert text_fingerprint(dataclasses.replace(remote, streaming=True), tmp_path) == text_fingerprint(remote, tmp_path)


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_column": "text"}, "has no column data.text_column=text; it has id, content, lang"),
        ({"language_column": "language"}, "has no column data.language_column=language; it has id, content, lang"),
        ({"text_column": "id"}, "row 1: column id holds int, not text"),
        ({"split": "dev"}, "data.split=dev"),
        ({"subset": "large"}, "data.subset=large"),
    ],
)
def test_missing_sets_and_columns_are_named(
    hub: DataConfig, tmp_path: Path, change: dict[str, str], message: str, streaming: bool
) -> None:
    with pytest.raises(UserError) as error:
        open_corpus(dataclasses.replace(hub, streaming=streaming, **change), tmp_path)
    assert message in str(error.value) and str(hub.name) in str(error.value)
    assert not [path for path in tmp_path.glob("text/*") if path.is_dir()]


def test_truncated_file_and_missing_set(hub: DataConfig, folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    path = broken / "data" / "train-1-of-2.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    for streaming in (True, False):
        with pytest.raises(UserError, match="could not be read"):
            open_corpus(dataclasses.replace(hub, name=str(broken), streaming=streaming), tmp_path / "cache")
    with pytest.raises(UserError, match=r"could not be read with data\.subset=None data\.split=train"):
        open_corpus(dataclasses.replace(hub, name=str(tmp_path / "absent")), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").glob("text/*") if path.is_dir()]


def test_attempts_to_reach_the_hub_are_reported_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client makes real attempts to reach a port where nothing listens."""
    from huggingface_hub.utils import http_backoff

    from tinylm_ablate import progress

    monkeypatch.setattr(progress._retries, "_said", False)
    progress.shorten_retries()
    for _ in range(2):
        with pytest.raises(Exception, match="refused"):
            http_backoff("HEAD", "http://127.0.0.1:9", max_retries=2, base_wait_time=0)
    assert capfd.readouterr().err == (
        "note: the Hugging Face hub cannot be reached; further attempts take about half a minute\n"
    )


def test_files_of_a_local_folder_that_are_not_in_the_data_set_are_counted(
    hub: DataConfig, tmp_path: Path, texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, part in (("a", texts[:150]), ("b", texts[150:300])):
        pa.parquet.write_table(pa.table({"content": part}), folder / f"{name}.parquet")
    (folder / "c.csv").write_text("content\nmore text\n")  # the library reads only the most common kind
    expected = {".csv outside the data set": {"files": 1, "bytes": 18}}
    data = dataclasses.replace(hub, name=str(folder))
    for _ in range(2):  # read, and from the cache
        assert passed_over(open_corpus(data, tmp_path / "cache").summary["sources"]) == expected
    assert "not read: 1 .csv outside the data set (18 bytes)" in capsys.readouterr().err
