"""A full disk, a folder without permissions, and a folder shared by several users."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import TINY, Command, Ended, run_command
from tinylm_ablate.files import building, save_tensors, write_atomic

#: A checkpoint at every step, about 100 kB each.
OFTEN = ["train.checkpoint_minutes=1e-9", "train.log_every=1", "progress=off"]


def may_be_another_user() -> bool:
    """Return whether these tests may become another user; tried in a fork, since there is no way back."""
    process = os.fork()
    if process == 0:
        try:
            become(4001, 4000)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(process, 0)[1] == 0


def become(user: int, group: int) -> None:
    """Become another user, who may read everything, since the interpreter may be readable only by its owner."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: keep what is permitted
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    read_search = 1 << 2  # CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(read_search, read_search, 0, 0, 0, 0)
    if libc.capset(header, effective_permitted_inheritable):
        raise OSError(ctypes.get_errno(), "capset")


def confine(limit: int, mask: int, user: int, group: int) -> None:
    """Limit the file size of this process, set its umask, and become another user; 0 changes nothing."""
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    os.umask(mask)
    if user:
        become(user, group)


OTHERS = pytest.mark.skipif(not may_be_another_user(), reason="these tests may not become another user")


def command(*arguments: str, limit: int = 0, user: int = 0, group: int = 0, mask: int = 0o022, **environment: str) -> Ended:
    """Run a command in a confined process."""
    prepare = functools.partial(confine, limit, mask, user, group)
    with Command(*arguments, folder=Path.cwd(), prepare=prepare, environment=environment) as started:
        return started.wait()


@pytest.fixture(scope="module")
def settings(small_data: list[str], small_cache: str) -> list[str]:
    """A run whose corpus is already cached."""
    return [*TINY, *OFTEN, *small_data, small_cache]


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[[str], Path]:
    """Mount a small disk, if permitted."""
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
    done = run_command(*settings, f"runs_dir={runs}")
    assert done.code == 0, done.err
    return weights(runs)


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name.count(".") > 1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("words", [[], ["-m"]], ids=["run", "grid"])
def test_a_file_size_limit_reached_in_a_checkpoint(
    words: list[str], settings: list[str], undisturbed: bytes, tmp_path: Path
) -> None:
    arguments = [*words, *settings, f"runs_dir={tmp_path}/runs"]
    ended = command(*arguments, limit=40_000)
    assert ended.code == 2 and "Traceback" not in ended.err, ended.err
    assert "no space for the run" in ended.err and "bytes are free (File too large)" in ended.err
    assert "set runs_dir to a folder on a larger disk" in ended.err and "the same command resumes" in ended.err
    assert not half_written(tmp_path / "runs")
    again = run_command(*arguments)
    assert again.code == 0, again.err
    assert weights(tmp_path / "runs") == undisturbed


@pytest.mark.timeout(600)
def test_a_disk_that_becomes_full_in_a_checkpoint(
    settings: list[str], undisturbed: bytes, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("1200k")
    arguments = [*settings, f"runs_dir={disk}/runs"]
    (disk / "other").write_bytes(bytes(1_000_000))
    ended = command(*arguments)
    assert ended.code == 2 and "Traceback" not in ended.err, ended.err
    assert "no space for" in ended.err and "(No space left on device)" in ended.err
    assert not half_written(disk / "runs")
    (disk / "other").unlink()
    again = run_command(*arguments)
    assert again.code == 0, again.err
    assert weights(disk / "runs") == undisturbed


@pytest.mark.timeout(600)
def test_a_full_folder_of_temporary_files(
    settings: list[str], undisturbed: bytes, tmp_path: Path, small_disk: Callable[[str], Path]
) -> None:
    disk = small_disk("64k")
    (disk / "other").write_bytes(bytes(60_000))
    tracked = [word for word in settings if word != "tracking=none"]
    ended = command(*tracked, f"runs_dir={tmp_path}/runs", TMPDIR=str(disk))
    assert ended.code == 0, ended.err
    assert weights(tmp_path / "runs") == undisturbed


@OTHERS
@pytest.mark.timeout(600)
def test_a_folder_without_write_permission(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("rights")
    (folder / "runs").mkdir(mode=0o755)
    for words in (["arch.depth=2"], ["-m", "arch.depth=2,3"]):
        ended = command(*settings, *words, f"runs_dir={folder}/runs", user=65534, group=65534)
        assert ended.code == 2 and "Traceback" not in ended.err, ended.err
        assert f"{folder}/runs: cannot write" in ended.err and "it belongs to root:root, drwxr-xr-x" in ended.err
        assert "set runs_dir to another folder" in ended.err


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
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")  # of compiled kernels
    shared = {"group": 4000, "mask": 0o002, "HOME": str(folder), "TMPDIR": "/tmp", "XDG_CACHE_HOME": cache}
    stopped = command(*arguments, limit=60_000, user=4001, **shared)  # within a checkpoint, after text and tokenizer
    assert stopped.code == 2, stopped.err
    resumed = command(*arguments, user=4002, **shared)
    assert resumed.code == 0, resumed.err
    assert weights(runs) == undisturbed
    skipped = command("-m", *arguments, "evaluate.cloze_questions=5", user=4001, **shared)
    assert skipped.code == 0, skipped.err
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


def test_system_errors_hidden_by_a_library_are_reported(tmp_path: Path) -> None:
    import torch

    with pytest.raises(FileNotFoundError):
        save_tensors(tmp_path / "absent" / "x.safetensors", {"x": torch.zeros(2)})
