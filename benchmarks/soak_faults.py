"""Faults that the soak test injects: clocks, disk, leases and tracking server."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

#: Maximum step of a clock, seconds: ten years.
_FAR = 10 * 365 * 86_400


def stepping_clock(folder: Path) -> Path | None:
    """Compile the library that makes clocks step; None without a compiler, or if the system has no preloading."""
    library = folder / "clock.so"
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


class Clock:
    """Time of day on one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the difference to the true time."""
        self.path.write_text(str(seconds))

    def step(self, draw: random.Random) -> None:
        """Step the clock by seconds to years, forward or back."""
        self.set(draw.choice((-1, 1)) * draw.choice((draw.randrange(120), draw.randrange(86_400), draw.randrange(_FAR))))


class Disk:
    """A small disk, if this process may mount one; otherwise a folder that never becomes full.

    Args:
        folder: Mount point.
        size: Size, bytes.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        self.real = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        self._ballast = folder / "ballast"

    @property
    def full(self) -> bool:
        """Whether it was filled and not emptied since."""
        return self._ballast.exists()

    def fill(self, draw: random.Random) -> None:
        """Leave no space, or very little."""
        with self._ballast.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(65_536))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            stream.truncate(max(0, stream.tell() - draw.choice((0, 4_096, 65_536))))

    def empty(self) -> None:
        """Free the space again."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Remove the disk."""
        if self.real:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


class Server:
    """An MLflow server on loopback.

    Args:
        folder: Folder of its database, artifacts and log.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._hangs = False

    @property
    def away(self) -> bool:
        """Whether it was killed or hangs."""
        return self._process is None or self._hangs

    def answers(self) -> bool:
        """Return whether it responds now."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                return True
        except OSError:
            return False

    def start(self) -> None:
        """Start it, or continue it if it hangs; it responds after some seconds."""
        if self._process is not None and self._hangs:
            os.killpg(self._process.pid, signal.SIGCONT)
        elif self._process is None:
            command = [
                sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db",
                "--artifacts-destination", str(self._folder / "served"), "--host", "127.0.0.1", "--port", str(self.port),
                "--workers", "1",
            ]  # fmt: skip
            environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
            environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
            with (self._folder / "server.log").open("ab") as log:
                self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        self._hangs = False

    def go_away(self, draw: random.Random) -> None:
        """Kill it, or let it hang, so that it accepts requests and never responds."""
        if draw.random() < 0.5:
            self.kill()
        elif self._process is not None:
            os.killpg(self._process.pid, signal.SIGSTOP)
            self._hangs = True

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process, self._hangs = None, False


def spoil_lease(runs: Path, draw: random.Random) -> bool:
    """Write a wrong time or garbage to a lease; False if there is none."""
    leases = [path for path in runs.glob("claims/*.*") if path.suffix != ".lock"]
    if not leases:
        return False
    try:
        lease = draw.choice(leases)
        if draw.random() < 0.5:
            os.utime(lease, (draw.randrange(1, 2 * _FAR),) * 2)
        else:
            with lease.open("r+b") as stream:
                stream.truncate()
                stream.write(draw.choice((b"", b"[]", b"5", b'{"seconds": -1, "pid": "x"}', draw.randbytes(64))))
    except OSError:  # it was released, or there is no space
        return False
    return True
