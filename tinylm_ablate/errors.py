"""Errors shown to users without a traceback; any other exception is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Sequence


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class UserError(Exception):
    """A problem that the user can fix; the message says what is wrong, where, and what to do. Exit code 2."""


class DiskError(UserError):
    """No disk space, or no permission to write. The command ends, since further tasks would fail too."""


class ConfigError(UserError):
    """One or more mistakes in a configuration, reported together.

    Args:
        mistakes: One line each, of the form "key=value: what is allowed".
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = list(dict.fromkeys(mistakes))
        count = len(self.mistakes)
        title = "1 mistake in the configuration" if count == 1 else f"{count} mistakes in the configuration"
        super().__init__("\n".join([f"{title}; nothing was run:", *(f"  - {m}" for m in self.mistakes)]))


class RunFailed(Exception):
    """A run failed for a reason that is not a bug, such as a loss that is not finite; reported without a traceback."""


class Busy(Exception):
    """Another process is working on this run or on one of its needs."""


class Interrupted(Exception):
    """Training was stopped (SIGTERM or Ctrl-C) after saving its state.

    Args:
        signum: The signal, from which the exit code follows.
        message: Where training stopped, and how to resume.
    """

    def __init__(self, signum: int, message: str) -> None:
        self.signum = signum
        super().__init__(message)


class Pruned(Interrupted):
    """A search pruned a run in training; its state was saved, so that it can resume."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message)


def listed(names: Sequence[str], most: int = 3) -> str:
    """List up to ``most`` names, and the number of others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def one_line(error: BaseException) -> str:
    """Format an error in one line: a message for users, or the class and the beginning of the message."""
    text = " ".join(str(error).split())
    if isinstance(error, UserError | RunFailed):
        return text
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
