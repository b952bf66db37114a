"""A disk without room, a folder without rights, and a folder that several users share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import TINY
from tinylm_ablate.data.corpus import Corpus
from tinylm_ablate.files import building, save_tensors, write_atomic

#: Checkpoints at every step, each of about 100 kB.
OFTEN = ["train.checkpoint_minutes=1e-9", "train.log_every=1", "progress=off"]
#: A command with a limit on the size of files, or as another user.
START = """
import os, resource, sys
limit, mask = map(int, sys.argv[1:3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
os.umask(mask)
from tinylm_ablate.__main__ import main
sys.argv[1:] = sys.argv[3:]
main()
"""


def as_user(user: int, group: int) -> list[str]:
    """Starts a command as another user, who may read everything, for an interpreter may be installed for its owner alone."""
    caps = ["--inh-caps", "-all,+dac_read_search", "--ambient-caps", "-all,+dac_read_search"]
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *caps]


def can_be_another_user() -> bool:
    try:
        return subprocess.run([*as_user(4001, 4000), "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


OTHERS = pytest.mark.skipif(not can_be_another_user(), reason="these tests may not become another user")


def command(
    *arguments: str, limit: int = 0, user: int = 0, group: int = 0, mask: int = 0o022, **environment: str
) -> subprocess.CompletedProcess[str]:
    prefix = as_user(user, group) if user else []
    return subprocess.run(
        [*prefix, sys.executable, "-c", START, str(limit), str(mask), *arguments],
        env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def settings(small_data: list[str], small_corpus: Corpus) -> list[str]:
    """A run whose corpus is in the cache already."""
    return [*TINY, *OFTEN, *small_data, f"cache_dir={small_corpus.folder.parents[1]}"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[str], Path]:
    """Mounts a small disk, where tests may."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(size: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip("no small disk can be mounted here")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "-l", str(disk)], check=True)


def weights(folder: Path) -> bytes:
    (path,) = folder.glob("*/model/model.safetensors")
    return path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    runs = tmp_path_factory.mktemp("undisturbed")
    done = command(*settings, f"runs_dir={runs}")
    assert done.returncode == 0, done.stderr
    return weights(runs)


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.count(".") > 1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("words", [[], ["-m"]], ids=["run", "grid"])
def test_a_limit_on_the_size_of_files_within_a_checkpoint(
    words: list[str], settings: list[str], undisturbed: bytes, tmp_path: Path
) -> None:
    arguments = [*words, *settings, f"runs_dir={tmp_path}/runs"]
    ended = command(*arguments, limit=40_000)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert "no room for the run" in ended.stderr and "bytes are free (File too large)" in ended.stderr
    assert "set runs_dir to a folder on a larger disk" in ended.stderr and "the same command resumes" in ended.stderr
    assert not half_written(tmp_path / "runs")
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert weights(tmp_path / "runs") == undisturbed


@pytest.mark.timeout(600)
def test_a_disk_that_fills_within_a_checkpoint(
    settings: list[str], undisturbed: bytes, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("1200k")
    arguments = [*settings, f"runs_dir={disk}/runs"]
    (disk / "other").write_bytes(bytes(1_000_000))
    ended = command(*arguments)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert "no room for" in ended.stderr and "(No space left on device)" in ended.stderr
    assert not half_written(disk / "runs")
    (disk / "other").unlink()
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert weights(disk / "runs") == undisturbed


@pytest.mark.timeout(600)
def test_a_full_folder_for_temporary_files(
    settings: list[str], undisturbed: bytes, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    (disk / "other").write_bytes(bytes(60_000))
    tracked = [word for word in settings if word != "tracking=none"]
    ended = command(*tracked, f"runs_dir={tmp_path}/runs", TMPDIR=str(disk))
    assert ended.returncode == 0, ended.stderr
    assert weights(tmp_path / "runs") == undisturbed


@OTHERS
@pytest.mark.timeout(600)
def test_a_folder_that_may_not_be_written(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rights")
    (folder / "runs").mkdir(mode=0o755)
    for words in (["arch.depth=2"], ["-m", "arch.depth=2,3"]):
        ended = command(*words, *settings, f"runs_dir={folder}/runs", user=65534, group=65534)
        assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
        assert f"{folder}/runs: cannot write" in ended.stderr and "it belongs to root:root, drwxr-xr-x" in ended.stderr
        assert "set runs_dir to another folder" in ended.stderr


@OTHERS
@pytest.mark.timeout(600)
def test_two_users_of_a_group_share_a_folder_of_runs(
    small_data: list[str], undisturbed: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One skips, resumes and measures what the other trained; the umask and the folder's setgid bit decide the modes."""
    folder = tmp_path_factory.mktemp("shared")
    runs = folder / "runs"
    runs.mkdir()
    os.chown(runs, 4001, 4000)
    runs.chmod(0o2775)
    tracked = [word for word in TINY if word != "tracking=none"]
    arguments = [*tracked, *OFTEN, *small_data, f"runs_dir={runs}"]
    shared = {"group": 4000, "mask": 0o002, "HOME": str(folder), "TMPDIR": "/tmp"}
    stopped = command(*arguments, limit=60_000, user=4001, **shared)  # within a checkpoint, after text and tokenizer
    assert stopped.returncode == 2, stopped.stderr
    resumed = command(*arguments, user=4002, **shared)
    assert resumed.returncode == 0, resumed.stderr
    assert weights(runs) == undisturbed
    skipped = command("-m", *arguments, "evaluate.cloze_questions=5", user=4001, **shared)
    assert skipped.returncode == 0, skipped.stderr
    for path in runs.rglob("*"):
        mode, group = path.stat().st_mode, path.stat().st_gid
        assert group == 4000, path
        assert mode & 0o777 == (0o775 if path.is_dir() else 0o664), (path, oct(mode))
        assert not path.is_dir() or mode & 0o2000, path


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_the_umask_decides_the_modes(mask: int, tmp_path: Path) -> None:
    import torch

    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "one.json", json.dumps(1))
        with building(tmp_path / "two") as unfinished:
            (unfinished / "inner").mkdir()
            save_tensors(unfinished / "inner" / "x.safetensors", {"x": torch.zeros(2)})
    finally:
        os.umask(before)
    files = [tmp_path / "one.json", tmp_path / "two" / "inner" / "x.safetensors"]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
    assert (tmp_path / "two").stat().st_mode & 0o777 == 0o777 & ~mask


def test_an_error_that_a_library_hides_is_the_systems(tmp_path: Path) -> None:
    import torch

    with pytest.raises(FileNotFoundError):
        save_tensors(tmp_path / "absent" / "x.safetensors", {"x": torch.zeros(2)})
