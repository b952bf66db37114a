"""Broken input: one message that names the file and the fix, and no leftovers that a later run would trust."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from tinylm_ablate.config import DataConfig
from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.data.folder_walk import find_files
from tinylm_ablate.errors import UserError

Make = Callable[..., DataConfig]

ROWS = [{"text": f"text number {number} " + "and some words more " * 4} for number in range(200)]
GOOD = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def refused(data: DataConfig, cache: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_corpus(data, cache)
    assert not [path for path in cache.glob("text/*") if path.is_dir()], "something half-built was left"
    return str(caught.value)


def parquet(path: Path) -> bytes:
    pa.parquet.write_table(pa.table({"text": [row["text"] for row in ROWS]}), path)
    return path.read_bytes()


def test_empty_file(tmp_path: Path, data_config: Make) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.jsonl").write_bytes(GOOD)
    (tmp_path / "in" / "empty.txt").touch()
    message = refused(data_config(tmp_path / "in"), tmp_path / "cache")
    assert message == f"{tmp_path}/in/empty.txt: empty, 0 bytes. Delete it, or write it again if it should hold text"


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
def test_bad_utf8_names_file_byte_and_fix(tmp_path: Path, data_config: Make, suffix: str) -> None:
    path = tmp_path / f"bad{suffix}"
    content = GOOD + '{"text": "中国的春天来了，城里的人们又走到河边看船"}\n'.encode("gb18030")
    path.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    message = refused(data_config(path), tmp_path / "cache")
    assert message.startswith(f"{path}: is not UTF-8 at byte {len(GOOD) + 10:,}")
    assert "(0xd6)" in message and "iconv -f GB18030 -t UTF-8" in message


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_wrong_column_is_reported_with_those_that_exist(tmp_path: Path, data_config: Make, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    path.write_bytes(parquet(path) if kind == "parquet" else GOOD)
    message = refused(data_config(path, text_column="content"), tmp_path / "cache")
    assert message.endswith("has no column data.text_column=content; it has text") and message.startswith(str(path))
    message = refused(data_config(path, language_column="lang"), tmp_path / "cache")
    assert "has no column data.language_column=lang; it has text" in message


def test_invalid_json_names_file_and_line(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.jsonl"
    for line, reason in (
        (b'{"text": oops}', "is not JSON"),
        (b'["a"]', "is not an object"),
        (b'{"text": 3}', "holds int, not text"),
    ):
        path.write_bytes(GOOD + line + b"\n" + GOOD)
        assert refused(data_config(path), tmp_path / "cache").startswith(f"{path}, line 201: ")
        assert reason in refused(data_config(path), tmp_path / "cache")
    path.write_bytes(GOOD + b'{"text": "a\\ud800b"}\n')
    assert "line 201: column text has an unpaired surrogate, '\\ud800'" in refused(data_config(path), tmp_path / "cache")


def test_truncated_parquet(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.parquet"
    content = parquet(path)
    path.write_bytes(content[:-30])
    assert refused(data_config(path), tmp_path / "cache").startswith(f"{path}: is damaged, truncated, or not a Parquet file")
    middle = content.index(b"words")
    path.write_bytes(content[: middle - 40] + bytes(80) + content[middle + 40 :])
    assert refused(data_config(path), tmp_path / "cache").startswith(f"{path}: is damaged after row")


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".txt.gz", ".txt.zst"])
def test_truncated_compression(tmp_path: Path, data_config: Make, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    packed = (gzip.compress if suffix.endswith("gz") else zstandard.compress)(GOOD)
    for content in (packed[:-9], packed[: len(packed) // 2], GOOD):
        path.write_bytes(content)
        message = refused(data_config(path), tmp_path / "cache")
        assert message.startswith(f"{path}: is damaged or truncated") and "Create or download it again" in message


def test_a_missing_path_and_a_folder_without_text(tmp_path: Path, data_config: Make) -> None:
    message = refused(data_config(tmp_path / "absent"), tmp_path / "cache")
    assert message.startswith(f"data.path={tmp_path}/absent: no such file or folder")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.docx").write_text("x")
    message = refused(data_config(tmp_path / "in"), tmp_path / "cache")
    assert "has no files to read; allowed: .txt .jsonl" in message
    message = refused(data_config(tmp_path / "in" / "notes.docx"), tmp_path / "cache")
    assert "unknown kind of file; allowed: .txt" in message


def test_a_language_column_without_languages(tmp_path: Path, data_config: Make) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row | {"id": number}) + "\n" for number, row in enumerate(ROWS)))
    message = refused(data_config(path, language_column="id"), tmp_path / "cache")
    assert message.startswith(f"{path}, line 1, column id: 0 is not a valid")
    path.write_text("".join(json.dumps(row | {"id": f"id{number}"}) + "\n" for number, row in enumerate(ROWS)))
    message = refused(data_config(path, language_column="id"), tmp_path / "cache")
    assert "data.language_column=id: holds more than 100 different values" in message


def test_any_number_of_languages_can_be_identified(tmp_path: Path, data_config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    names = iter(f"l{number}" for number in range(len(ROWS)))
    monkeypatch.setattr("tinylm_ablate.data.local_files.identify", lambda _: next(names))
    corpus = open_corpus(data_config(path), tmp_path / "cache")
    assert len(corpus.summary["grouped"]) == len(ROWS) and corpus.languages == ["other"]


@contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder that everybody can enter, and the identity of a user without rights (root has all)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    root = os.geteuid() == 0
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


def drop_rights() -> None:
    if os.geteuid() == 0:
        os.seteuid(65534)


def test_missing_permissions(data_config: Make) -> None:
    with as_nobody() as folder:
        (folder / "t.jsonl").write_bytes(GOOD)
        open_corpus(data_config(folder / "t.jsonl"), folder / "all")  # imports modules, which that user may not be able to read
        (folder / "open").mkdir(mode=0o777)
        (folder / "open").chmod(0o777)
        (folder / "closed").mkdir(mode=0o555)
        (folder / "closed").chmod(0o555)
        (folder / "inner").mkdir()
        (folder / "inner" / "t.jsonl").write_bytes(GOOD)
        (folder / "inner").rename(folder / ".hidden")
        (folder / ".hidden").chmod(0o000)
        drop_rights()
        assert find_files(folder).passed_over["hidden"] == {"files": 1, "bytes": 0}  # not read anyway
        os.seteuid(0) if os.getuid() == 0 else None
        (folder / ".hidden").chmod(0o700)
        (folder / ".hidden").rename(folder / "inner")
        (folder / "inner").chmod(0o000)
        drop_rights()
        message = refused(data_config(folder / "t.jsonl"), folder / "closed" / "cache")
        assert "cannot write the corpus there (Permission denied)" in message and "set cache_dir" in message
        assert "cannot be listed (Permission denied)" in refused(data_config(folder), folder / "open" / "cache")
        os.seteuid(0) if os.getuid() == 0 else None
        (folder / "inner").chmod(0o755)
        (folder / "t.jsonl").chmod(0o000)
        drop_rights()
        message = refused(data_config(folder / "t.jsonl"), folder / "open" / "cache")
        assert message.startswith(f"{folder}/t.jsonl: cannot be read (Permission denied)") and "chmod u+r" in message


FULL_DISK = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.errors import UserError
data = compose(["data=files", f"data.path={sys.argv[3]}", "data.validation_share=0.2", "data.test_share=0.2"]).data
try:
    open_corpus(data, Path(sys.argv[4]))
except UserError as error:
    print(error)
else:
    print("built")
"""


def incompressible(path: Path) -> None:
    draw = random.Random(0)
    path.write_text(
        "".join(json.dumps({"text": "".join(draw.choices("abcdefghijklmnop", k=2000))}) + "\n" for _ in range(2000))
    )


def open_in_process(prefix: list[str], path: Path, cache: Path) -> str:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", FULL_DISK, str(root), str(root / "tests"), str(path), str(cache)]
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_limit_on_file_size(tmp_path: Path, data_config: Make) -> None:
    data, cache = data_config(tmp_path / "t.jsonl"), tmp_path / "cache"
    incompressible(tmp_path / "t.jsonl")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        said = refused(data, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (
        f"{tmp_path}/cache/text: no space for the corpus: about {(tmp_path / 't.jsonl').stat().st_size:,} bytes are needed"
        in said
    )
    assert "no partial files were left" in said
    assert not [path for path in (tmp_path / "cache" / "text").iterdir() if path.is_dir()]
    open_corpus(data, cache)


def test_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1m tmpfs {disk}"
    if shutil.which("unshare") is None or subprocess.run([*shell, mount], check=False, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    prefix = [*shell, f'{mount} && "$@" && ls -A {disk}/cache/text', "sh"]
    incompressible(tmp_path / "t.jsonl")
    said = open_in_process(prefix, tmp_path / "t.jsonl", disk / "cache")
    message, *left = said.strip().split("\n")
    assert "no space for the corpus" in message and "bytes are free (" in message and "set cache_dir" in message
    assert all(name.endswith((".lock", ".json")) for name in left)
