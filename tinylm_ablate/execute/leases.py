"""Who does a run: claims, by which many workers, on one machine or on a folder that many share, do one grid together.

A claim is the file ``runs_dir/claims/<identity>.<n>`` with the highest n. Only one process can create a file of a name, and its
holder touches it four times a lease. Once it has not been touched for a whole lease, it may be followed by number n + 1, which
again only one process can create; so of two that find the same claim dead at the same moment, one gets the run. Ages are
differences between times that the folder's own file system gave out, so that the clocks of the machines do not matter.

Beside its claim a worker holds a lock of the operating system on ``run.lock`` in the run's folder. It is let go with the
process, however that ends, so a claim of this machine whose lock is free is dead at once. Not every shared folder has such
locks, and then the claims are enough.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import functools
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate.errors import Busy, Interrupted

#: What the system answers where a folder has no locks.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})

#: Longest wait between two looks at a run that another worker does, seconds.
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """Who holds a claim.

    Attributes:
        machine: Its machine, told apart from others of the same name.
        pid: Its process there.
        lease: Seconds without a sign of life after which the claim is dead.
        age: Seconds since the last sign of life.
        released: It was given free.
    """

    machine: str
    pid: int
    lease: float
    age: float
    released: bool

    @property
    def name(self) -> str:
        """Host and process, for people."""
        return f"{self.machine.partition('/')[0]}, process {self.pid}"


class Claim:
    """A claim that this process holds: a thread keeps it alive until ``release``.

    Attributes:
        lost: Another worker has taken the run over, as this process gave no sign of life for a whole lease (it was suspended,
            say, or cut off from the folder).
    """

    def __init__(self, path: Path, lease: float) -> None:
        self.path, self.lost = path, False
        self._lease = lease
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)
        self._thread.start()

    def release(self, done: bool) -> None:
        """Give the run free; of one that is done no trace is left, since nobody will claim it again."""
        self._stop.set()
        self._thread.join()
        if self.lost:
            return
        with contextlib.suppress(FileNotFoundError):
            if done:
                self.path.unlink()
            else:
                # Kept, since numbers must not be given out twice, and dead by its age.
                os.utime(self.path, (0, 0))

    def _beat(self) -> None:
        while not self._stop.wait(self._lease / 4):
            try:
                os.utime(self.path)
                if _newest(self.path.parent, self.path.stem) == int(self.path.suffix[1:]):
                    continue
            except FileNotFoundError:
                pass
            except OSError:  # a shared folder that is away for a moment: the lease will tell
                continue
            self.lost = True
            # Training answers this signal with a checkpoint and an end. Elsewhere nothing listens, and the run is finished
            # here too, with the same numbers.
            _thread.interrupt_main(signal.SIGTERM)
            return


@contextlib.contextmanager
def held(run: Path, lease: float, wait: bool) -> Iterator[None]:
    """Hold the lock and the claim of a run.

    Args:
        run: The run's folder.
        lease: Seconds without a sign of life after which others may take the run.
        wait: Wait for another worker that does the run, where it would raise.

    Raises:
        Busy: Another worker does the run, or has taken it over meanwhile.
    """
    run.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        with contextlib.ExitStack() as stack:
            try:
                locked = stack.enter_context(_lock(run))
                claim = take(run.parent, run.name, lease, locked)
            except Busy as busy:
                if not wait:
                    raise
                if not told:
                    print(f"waiting for another worker: {busy}", file=sys.stderr, flush=True)
                    told = True
            else:
                try:
                    yield
                except Interrupted as stop:
                    if claim.lost:
                        raise Busy(f"{run}: taken over by another worker, as this one gave no sign of life") from stop
                    raise
                finally:
                    claim.release(done=(run / "metrics.json").exists())
                return
        time.sleep(min(LOOK_SECONDS, lease / 4))


def take(runs_dir: Path, identity: str, lease: float, locked: bool = False) -> Claim:
    """Claim a run.

    Args:
        runs_dir: Folder of the runs.
        identity: The run.
        lease: Seconds without a sign of life after which others may take it.
        locked: Whether the caller holds the run's lock, by which any other claim of this machine is dead.

    Raises:
        Busy: Another worker holds it.
    """
    folder = runs_dir / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    newest = _newest(folder, identity)
    if newest:
        holder = _read(folder / f"{identity}.{newest}", file_time(folder))
        if holder is not None and holder.age <= holder.lease and not (locked and holder.machine == machine()):
            raise Busy(f"{runs_dir / identity} is done by {holder.name}")
    path = folder / f"{identity}.{newest + 1}"
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        raise Busy(f"{runs_dir / identity} was just taken by another worker") from None
    with os.fdopen(handle, "w") as stream:
        told = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        json.dump({"machine": machine(), "pid": os.getpid(), "time": told, "lease_seconds": lease}, stream)
    # Whoever was slow between looking and creating may have made a number that others have left behind.
    if _newest(folder, identity) > newest + 1:
        path.unlink(missing_ok=True)
        raise Busy(f"{runs_dir / identity} was just taken by another worker")
    for number in _numbers(folder, identity):
        if number <= newest:
            (folder / f"{identity}.{number}").unlink(missing_ok=True)
    return Claim(path, lease)


def holders(runs_dir: Path) -> dict[str, Holder]:
    """Who does which run at this moment, by the run's identity."""
    return {
        identity: holder
        for identity, holder in claimed(runs_dir).items()
        if holder.age <= holder.lease and not (holder.machine == machine() and _is_free(runs_dir / identity))
    }


def claimed(runs_dir: Path) -> dict[str, Holder]:
    """Every claim, dead or alive, by the run's identity."""
    folder = runs_dir / "claims"
    newest: dict[str, int] = {}
    for path in folder.glob("[!.]*.*"):
        if path.suffix[1:].isdigit():
            newest[path.stem] = max(newest.get(path.stem, 0), int(path.suffix[1:]))
    if not newest:
        return {}
    now = file_time(folder)
    found = {identity: _read(folder / f"{identity}.{number}", now) for identity, number in newest.items()}
    return {identity: holder for identity, holder in found.items() if holder is not None}


def file_time(folder: Path) -> float:
    """The time by the clock of the file system that holds ``folder``, seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".time.")
    os.close(handle)
    try:
        os.utime(name)
        return os.stat(name).st_mtime
    finally:
        os.unlink(name)


@functools.cache
def machine() -> str:
    """This machine: its name, and what tells it from others of that name."""
    try:
        mark = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        mark = f"{uuid.getnode():x}"
    return f"{socket.gethostname()}/{mark}"


def _numbers(folder: Path, identity: str) -> list[int]:
    return [int(path.suffix[1:]) for path in folder.glob(f"{identity}.*") if path.suffix[1:].isdigit()]


def _newest(folder: Path, identity: str) -> int:
    return max(_numbers(folder, identity), default=0)


def _read(path: Path, now: float) -> Holder | None:
    """The holder that a claim names; None where it is gone."""
    try:
        touched = path.stat().st_mtime
        content = json.loads(path.read_text() or "{}")
    except FileNotFoundError:
        return None
    except ValueError:
        content = {}
    # What its holder has not written yet, or was killed before it could, is nobody's; only its age counts.
    machine, pid, lease = (content.get(key, rest) for key, rest in (("machine", "?"), ("pid", 0), ("lease_seconds", 60.0)))
    return Holder(str(machine), int(pid), float(lease), now - touched, released=touched == 0)


@contextlib.contextmanager
def _lock(run: Path) -> Iterator[bool]:
    """Hold the lock of a run's folder; tells whether the folder has locks.

    Raises:
        Busy: Another process holds it.
    """
    handle = os.open(run / "run.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"{run} is done by another process") from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            locked = False
        yield locked
    finally:
        os.close(handle)


def _is_free(run: Path) -> bool:
    """Whether nobody holds the lock of a run's folder; false where that cannot be told."""
    try:
        with _lock(run) as locked:
            return locked
    except (Busy, OSError):
        return False
