"""What is told to a user without a traceback; everything else that is raised is a defect and keeps its own."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can mend: the message names what is wrong, where, and what to do. Exit code 2."""


class DiskError(UserError):
    """A disk has no room, or a folder may not be written. Nothing else that needs it would succeed, so the command ends."""


class ConfigError(UserError):
    """One or more mistakes in a configuration, all told at once.

    Args:
        mistakes: One line each, of the form "key=value: what is allowed".
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = list(dict.fromkeys(mistakes))
        count = len(self.mistakes)
        title = "1 mistake in the configuration" if count == 1 else f"{count} mistakes in the configuration"
        super().__init__("\n".join([f"{title}; nothing was run:", *(f"  - {m}" for m in self.mistakes)]))


class RunFailed(Exception):
    """A run came to an end that is nobody's defect, such as a loss that is not finite: told without a traceback."""


class Busy(Exception):
    """Another process does this run, or makes something that it needs."""


class Interrupted(Exception):
    """Training was asked to stop (SIGTERM or Ctrl-C) and has saved where it was.

    Args:
        signum: The signal, from which the exit code follows.
        message: Where it stopped, and how to go on.
    """

    def __init__(self, signum: int, message: str) -> None:
        self.signum = signum
        super().__init__(message)


class Pruned(Interrupted):
    """A search gave a run up while it trained; its state was saved, and it can go on from there."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message)
