"""Leases on tasks: many workers, on one machine or over a shared folder, take the tasks of one graph without a server.

A lease is the file ``runs_dir/claims/<key>.<n>`` with the highest n. Only one process can create a file of a given name, and
its holder touches it four times per lease time. A lease that nobody renews may be followed by number n + 1, which again only
one process can create; so of two that find the same lease dead at the same moment, one gets the task.

Whether a lease is alive is observed and not computed from clocks: it is dead once this process has watched its file unchanged
for a whole lease time. Clocks that were wrong, or that step, do not matter. Beside its lease a worker holds an operating-system
lock, which ends with the process; so a lease of this machine whose lock is free is dead at once. Not every shared folder has
such locks, and then watching is enough.
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
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import Busy

#: What the system answers where a folder has no locks.
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP})

#: Longest lease time, and that of a lease that does not say it, seconds.
MOST_SECONDS, UNREADABLE_SECONDS = 86_400.0, 60.0

_UNREADABLE = "?"

#: Longest wait between two looks at a task that another worker holds, seconds.
LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Holder:
    """Holder of a lease.

    Attributes:
        machine: Its machine, distinguished from others of the same name.
        pid: Its process there.
        since: When it took the task, by its own clock, as text.
        seconds: Without a sign of life for this long, the lease is dead.
        mark: What changes with each sign of life.
        released: It was given back.
        session: The command that it works for.
        crashes: Workers of this command that have died at this task.
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
        lost: Another worker has taken the task over, since this process gave no sign of life for a whole lease time (it was
            suspended, or cut off from the folder).
        crashes: Workers of this command that have died at this task before.
    """

    def __init__(self, path: Path, seconds: float, crashes: int) -> None:
        self.path, self.lost, self.crashes = path, False, crashes
        self._seconds = seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self, done: bool) -> None:
        """Give the task back; of one that is done no trace is left, since nobody will take it again."""
        self._stop.set()
        self._thread.join()
        if self.lost:
            return
        with contextlib.suppress(FileNotFoundError):
            if done:
                self.path.unlink()
            else:
                os.utime(self.path, (0, 0))  # kept, since numbers must not be given out twice

    def renew(self) -> bool:
        """Give a sign of life; False, and ``lost``, where another worker has taken the task over."""
        try:
            os.utime(self.path)
            self.lost = _newest(self.path.parent, self.path.stem) != int(self.path.suffix[1:])
        except FileNotFoundError:
            self.lost = True
        except OSError:  # a shared folder that is away for a moment
            pass
        return not self.lost

    def _renew(self) -> None:
        while not self._stop.wait(self._seconds / 4):
            if self.renew():
                continue
            # Training answers this signal with a checkpoint and an end. Elsewhere nothing listens, and the task is finished
            # here too, with the same numbers.
            _thread.interrupt_main(signal.SIGTERM)
            return


class Leases:
    """The leases in one ``runs_dir``, as this process sees them.

    Args:
        runs_dir: Folder of the runs.
        seconds: Lease time.
        session: Names the command that this process works for; all of its workers share it.
    """

    def __init__(self, runs_dir: Path, seconds: float, session: str = "") -> None:
        self.folder, self.seconds, self.session = runs_dir / "claims", seconds, session
        #: For each lease file its last mark, and when it was first seen by this process' own monotonic clock.
        self._watched: dict[str, tuple[int, float]] = {}

    @contextlib.contextmanager
    def hold(self, key: str, done: Path) -> Iterator[Lease]:
        """Hold the lease of a task.

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
                if done.exists():  # still locked: a process that opened the file meanwhile finds it gone
                    (self.folder / f"{key}.lock").unlink(missing_ok=True)

    def held(self) -> dict[str, Holder]:
        """The live leases by task."""
        found = {}
        for key, (path, holder) in self._all().items():
            if not holder.released and self._alive(path, holder) and not (holder.machine == machine() and self._is_free(key)):
                found[key] = holder
        return found

    def names(self) -> set[str]:
        """The tasks of which there is a lease or a lock, of living workers and of dead ones."""
        return {path.stem for path in self.folder.glob("[!.]*.*")}

    def give_back(self, key: str) -> bool:
        """Remove the lease of a task; False if there is none. A living holder notices, saves its state and stops."""
        numbers = _numbers(self.folder, key)
        for number in numbers:
            (self.folder / f"{key}.{number}").unlink(missing_ok=True)
        return bool(numbers)

    def unclaim(self, identity: str) -> dict[str, Holder]:
        """Give back by hand whatever is held of a run: its training and its measures.

        Args:
            identity: A run, or the key of a task.

        Returns:
            Who held each task.
        """
        found = {key: holder for key, (_, holder) in self._all().items() if identity in (key, *key.split("-")[1:2])}
        for key in found:
            self.give_back(key)
        return {key: holder for key, holder in found.items() if not holder.released}

    def dead(self) -> dict[str, list[Path]]:
        """The files of leases and locks that certainly have no worker, by task: given back, or of a process of
        this machine that has ended."""
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
        """Remove what dead workers left of tasks that are done."""
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
        except OSError:  # no room: an empty lease would block others until it is seen to be dead
            path.unlink(missing_ok=True)
            raise
        # Whoever was slow between looking and creating may have made a number that others have left behind.
        if _newest(self.folder, key) > newest + 1:
            path.unlink(missing_ok=True)
            raise Busy(f"{key} was just taken by another worker")
        for number in _numbers(self.folder, key):
            if number <= newest:
                (self.folder / f"{key}.{number}").unlink(missing_ok=True)
        return Lease(path, self.seconds, crashes)

    def _is_free(self, key: str) -> bool:
        """Return whether nobody holds the lock of a task; false where that is unknown."""
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
    """This machine: its name, and what distinguishes it from others of that name."""
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
    """The holder that a lease names; None where the file is gone. Of an unreadable one only its changes count."""
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
    """Hold an operating-system lock; yields whether the folder has locks.

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
            if not same:  # its last holder removed it between our opening and locking
                continue
            yield locked
            return
        finally:
            os.close(handle)
