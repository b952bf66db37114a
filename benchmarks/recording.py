"""Record the output of a command: on a terminal as asciicast (``asciinema play FILE``), or without one as lines with times.

    python -m benchmarks.recording [--plain] [--seconds 60] FILE -- COMMAND...

The command is stopped as with Ctrl-C when the time is over. The asciicast has one event per second with all output in that
second.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

WIDTH, HEIGHT = 110, 24


def main() -> None:
    """Record the command on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument("--plain", action="store_true", help="without a terminal")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("file", type=Path)
    parser.add_argument("command", nargs="+")
    given = parser.parse_args()
    leader, follower = os.pipe() if given.plain else pty.openpty()
    if not given.plain:
        fcntl.ioctl(leader, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
    child = subprocess.Popen(
        given.command, stdin=subprocess.DEVNULL, stdout=follower, stderr=follower, env=os.environ | {"TERM": "xterm-256color"},
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    events = _read(leader, given.seconds, child)
    if given.plain:
        text = "".join(f"{second:4d}  {line}\n" for second, part in events for line in part.splitlines())
    else:
        head = {"version": 2, "width": WIDTH, "height": HEIGHT, "title": " ".join(given.command)}
        text = "\n".join([json.dumps(head), *(json.dumps([second, "o", part]) for second, part in events)]) + "\n"
    given.file.write_text(text)


def _read(source: int, seconds: float, child: subprocess.Popen[bytes]) -> list[tuple[int, str]]:
    """Yield the output of each second, until the time is over or the command has ended."""
    begin, found, decoder = time.monotonic(), "", codecs.getincrementaldecoder("utf-8")("replace")
    events: list[tuple[int, str]] = []
    ended = False
    while not ended:
        passed = time.monotonic() - begin
        if passed > seconds and child.poll() is None:
            child.send_signal(signal.SIGINT)
            ended = True
        if select.select([source], [], [], 0.05)[0]:
            try:
                part = os.read(source, 65536)
            except OSError:  # the last program on the terminal has ended
                part = b""
            found += decoder.decode(part)
            ended = ended or not part
        if found and (ended or int(passed) > (events[-1][0] if events else -1)):
            events.append((int(passed), found))
            found = ""
    child.wait()
    return events


if __name__ == "__main__":
    main()
