"""The two ways in which a user can be told that something is wrong.

Both end the program with exit code 2 and a message without a traceback; everything else that is raised is a
defect of the program (or of the machine) and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can mend: the message names what is wrong, where, and what to do about it."""


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
