"""User's command that runs when a grid has ended."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from tinylm_ablate.secrets import cut

#: Maximum time for the command, seconds.
TIMEOUT = 600.0


def on_end(command: str | None, facts: Mapping[str, object]) -> str | None:
    """Run ``grid.on_end`` in a shell; returns any problem in one line, and never raises.

    Args:
        command: The command; None does nothing.
        facts: Values of the environment variables ``TINYLM_ABLATE_<KEY>``: grid, name, status, done, failed, file.
    """
    if not command:
        return None
    environment = os.environ | {f"TINYLM_ABLATE_{key.upper()}": str(value) for key, value in facts.items()}
    try:
        done = subprocess.run(
            command, shell=True, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return cut(f"grid.on_end={command}: stopped after {TIMEOUT:.0f} s")
    except (OSError, ValueError) as error:
        return cut(f"grid.on_end={command}: cannot be run: {error}")
    if done.returncode == 0:
        return None
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    return cut(f"grid.on_end={command}: ended with exit code {done.returncode}{f': {last[0]}' if last else ''}")
