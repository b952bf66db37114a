"""Leases on tasks: many workers, on one machine or with a shared folder, divide the tasks of a graph without a server.

A lease is the file ``runs_dir/claims/<key>.<n>`` with the highest n. Only one process can create a file with a given name, and
its holder touches it four times per lease time. A lease that is not renewed may be followed by number n + 1, which again only
one process can create; so if two workers find a lease dead at the same moment, one of them gets the task.

Whether a lease is alive is observed rather than computed from clocks: it is dead once this process has watched its file
unchanged for a whole lease time. Wrong or changing clocks do not matter. In addition to its lease, a worker holds an
operating-system lock, which ends with the process; a lease of this machine whose lock is free is dead immediately. If a shared
folder does not support locks, watching is sufficient.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import Busy
from tinylm_ablate.signals import Stop

#: Errors of the system if a folder does not support locks.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})

#: Maximum lease time, and default for a lease that does not state it, seconds.
MOST_SECONDS, UNREADABLE_SECONDS = 86_400.0, 60.0

_UNREADABLE = "?"

#: Maximum time between checks of a task that another worker holds, seconds.
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """Holder of a lease.

    Attributes:
        machine: Its machine, distinguished from others with the same name.
        pid: Its process id there.
        since: When it took the task, by its own clock, as text.
        seconds: Time without a sign of life after which the lease is dead.
        mark: Value that changes with each sign of life.
        released: Whether it was released.
        session: The command that it works for.
        crashes: Number of workers of this command that died at this task.
    """

    machine: str
    pid: int
    since: str
    seconds: float
    mark: int
    released: bool
    session: str
    crashes: int

    @property
    def name(self) -> str:
        """Host, process and time, for people."""
        if self.machine == _UNREADABLE:
            return "unknown: its lease cannot be read"
        return f"{self.machine.partition('/')[0]}, process {self.pid}" + (f", since {self.since}" if self.since else "")


class Lease:
    """A lease that this process holds: a thread renews it until ``release``.

    Attributes:
        lost: Whether another worker has taken over the task, since this process gave no sign of life for a whole lease time
            (it was suspended, or lost access to the folder).
        crashes: Number of workers of this command that died at this task before.
    """

    def __init__(self, path: Path, seconds: float, crashes: int) -> None:
        self.path, self.lost, self.crashes = path, False, crashes
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self, done: bool) -> None:
        """Release the task; the lease of a finished one is removed, since no worker will take it again."""
        self._stop.set()
        self._thread.join()
        if self.lost:
            return
        with contextlib.suppress(FileNotFoundError):
            if done:
                self.path.unlink()
            else:
                os.utime(self.path, (0, 0))  # kept, since numbers must not be reused

    def renew(self) -> bool:
        """Give a sign of life; False, and ``lost``, if another worker has taken over the task."""
        try:
            os.utime(self.path)
            self.lost = _newest(self.path.parent, self.path.stem) != int(self.path.suffix[1:])
        except FileNotFoundError:
            self.lost = True
        except OSError:  # a shared folder that is temporarily unavailable
            pass
        return not self.lost

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            if self.renew():
                continue
            Stop.stop_training()  # any other task runs to its end, which changes no result
            return


class Leases:
    """The leases in one ``runs_dir``, as this process sees them.

    Args:
        runs_dir: Folder of the runs.
        seconds: Lease time.
        session: Id of the command that this process works for, shared by its workers.
    """

    def __init__(self, runs_dir: Path, seconds: float, session: str = "") -> None:
        self.folder, self.seconds, self.session = runs_dir / "claims", seconds, session
        #: Last mark of each lease file, and when this process first saw it, by its monotonic clock.
        self._watched: dict[str, tuple[int, float]] = {}

    @contextlib.contextmanager
    def hold(self, key: str, done: Path) -> Iterator[Lease]:
        """Acquire the lease of a task.

        Args:
            key: The task.
            done: A file that exists once the task is done.

        Raises:
            Busy: Another worker holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with _lock(self.folder / f"{key}.lock") as locked:
            lease = self._take(key, locked)
            try:
                yield lease
            finally:
                lease.release(done.exists())
                if done.exists():  # still locked: a process that opened the file meanwhile finds it removed
                    (self.folder / f"{key}.lock").unlink(missing_ok=True)

    def held(self) -> dict[str, Holder]:
        """Return the live leases by task."""
        found = {}
        for key, (path, holder) in self._all().items():
            if not holder.released and self._alive(path, holder) and not (holder.machine == machine() and self._is_free(key)):
                found[key] = holder
        return found

    def names(self) -> set[str]:
        """Return the tasks with a lease or a lock, of active or dead workers."""
        return {path.stem for path in self.folder.glob("[!.]*.*")}

    def give_back(self, key: str) -> bool:
        """Remove the lease of a task; False if there is none. An active holder notices, saves its state and stops."""
        numbers = _numbers(self.folder, key)
        for number in numbers:
            (self.folder / f"{key}.{number}").unlink(missing_ok=True)
        return bool(numbers)

    def unclaim(self, identity: str) -> dict[str, Holder]:
        """Revoke all leases of a run: its training and its measures.

        Args:
            identity: A run, or the key of a task.

        Returns:
            The holder of each task.
        """
        found = {key: holder for key, (_, holder) in self._all().items() if identity in (key, *key.split("-")[1:2])}
        for key in found:
            self.give_back(key)
        return {key: holder for key, holder in found.items() if not holder.released}

    def dead(self) -> dict[str, list[Path]]:
        """Return the files of leases and locks that certainly have no worker, by task.

        These were released, or belong to a process on this machine that has ended.
        """
        leases = self._all()
        found: dict[str, list[Path]] = {}
        for path in self.folder.glob("[!.]*.*"):
            holder = leases[path.stem][1] if path.stem in leases else None
            if path.suffix == ".lock" or path.suffix[1:].isdigit():
                ended = holder is None or holder.released or holder.machine == machine()
                if ended and self._is_free(path.stem):
                    found.setdefault(path.stem, []).append(path)
        return found

    def sweep(self, keys: Collection[str]) -> None:
        """Remove files that dead workers left of finished tasks."""
        for key, paths in self.dead().items():
            if key in keys:
                with contextlib.suppress(Busy, OSError), _lock(self.folder / f"{key}.lock"):
                    for path in [*paths, self.folder / f"{key}.lock"]:
                        path.unlink(missing_ok=True)

    def _all(self) -> dict[str, tuple[Path, Holder]]:
        newest: dict[str, int] = {}
        for path in self.folder.glob("[!.]*.*"):
            if path.suffix[1:].isdigit():
                newest[path.stem] = max(newest.get(path.stem, 0), int(path.suffix[1:]))
        paths = {key: self.folder / f"{key}.{number}" for key, number in newest.items()}
        read = {key: (path, _read(path)) for key, path in paths.items()}
        return {key: (path, holder) for key, (path, holder) in read.items() if holder is not None}

    def _alive(self, path: Path, holder: Holder) -> bool:
        mark, first = self._watched.get(path.name, (-1, 0.0))
        now = time.monotonic()
        if mark != holder.mark:
            self._watched[path.name] = (holder.mark, now)
            return True
        return now - first <= holder.seconds

    def _take(self, key: str, locked: bool) -> Lease:
        newest = _newest(self.folder, key)
        crashes = 0
        if newest:
            path = self.folder / f"{key}.{newest}"
            holder = _read(path)
            if holder is not None and not holder.released:
                if not (locked and holder.machine == machine()) and self._alive(path, holder):
                    raise Busy(f"{key} is held by {holder.name}")
                if self.session and holder.session == self.session:
                    crashes = holder.crashes + 1
        path = self.folder / f"{key}.{newest + 1}"
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            raise Busy(f"{key} was just taken by another worker") from None
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        content = {
            "machine": machine(), "pid": os.getpid(), "since": since, "seconds": self.seconds, "session": self.session,
            "crashes": crashes,
        }  # fmt: skip
        try:
            with os.fdopen(handle, "w") as stream:
                json.dump(content, stream)
        except OSError:  # disk full: an empty lease would block others until it is considered dead
            path.unlink(missing_ok=True)
            raise
        # A process that was slow between checking and creating may have created an outdated number.
        if _newest(self.folder, key) > newest + 1:
            path.unlink(missing_ok=True)
            raise Busy(f"{key} was just taken by another worker")
        for number in _numbers(self.folder, key):
            if number <= newest:
                (self.folder / f"{key}.{number}").unlink(missing_ok=True)
        return Lease(path, self.seconds, crashes)

    def _is_free(self, key: str) -> bool:
        """Return whether no process holds the lock of a task; false if unknown."""
        path = self.folder / f"{key}.lock"
        if not path.exists():
            return True
        try:
            with _lock(path) as locked:
                return locked
        except (Busy, OSError):
            return False


@functools.cache
def machine() -> str:
    """Return this machine's name, and what distinguishes it from others with that name."""
    try:
        mark = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        mark = f"{uuid.getnode():x}"
    return f"{socket.gethostname()}/{mark}"


def _numbers(folder: Path, key: str) -> list[int]:
    return [int(path.suffix[1:]) for path in folder.glob(f"{key}.*") if path.suffix[1:].isdigit()]


def _newest(folder: Path, key: str) -> int:
    return max(_numbers(folder, key), default=0)


def _read(path: Path) -> Holder | None:
    """Return the holder in a lease, or None if the file is gone; an unreadable lease only counts as changing or not."""
    content: Any = {}
    try:
        touched = path.stat().st_mtime_ns
        with contextlib.suppress(ValueError, RecursionError, IsADirectoryError, PermissionError):
            content = json.loads(path.read_text(errors="replace"))
    except FileNotFoundError:
        return None
    content = content if isinstance(content, dict) else {}

    def value(key: str, *kinds: type) -> Any:
        found = content.get(key)
        return found if isinstance(found, kinds) and not isinstance(found, bool) else None

    seconds = value("seconds", int, float)
    return Holder(
        machine=value("machine", str) or _UNREADABLE,
        pid=value("pid", int) or 0,
        since=value("since", str) or "",
        seconds=float(seconds) if seconds is not None and 0 < seconds <= MOST_SECONDS else UNREADABLE_SECONDS,
        mark=touched,
        released=touched == 0,
        session=value("session", str) or "",
        crashes=max(0, value("crashes", int) or 0),
    )


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Hold an operating-system lock; yields whether the folder supports locks.

    Raises:
        Busy: Another process holds it.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            locked = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Busy(f"{path.stem} is held by another process") from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                locked = False
            try:
                same = os.path.samestat(os.stat(path), os.fstat(handle))
            except FileNotFoundError:
                same = False
            if not same:  # its last holder removed it between opening and locking
                continue
            yield locked
            return
        finally:
            os.close(handle)
