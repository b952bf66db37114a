"""Verbs of the command line that are not values of ``mode``; each takes arguments and returns an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tinylm_ablate.errors import UserError


def report(arguments: Sequence[str]) -> int:
    """Write the report on the runs."""
    from tinylm_ablate.report.__main__ import main

    return main(arguments)


def ui(arguments: Sequence[str]) -> int:
    """Serve the MLflow page of the runs on this machine."""
    from tinylm_ablate.tracking.ui import main

    return main(arguments)


def gc(arguments: Sequence[str]) -> int:
    """List files that no grid needs any longer (runs, caches, checkpoints, partial files); --delete removes them.

    A cache_dir outside of the folder of runs may serve other folders too, and is not examined.
    """
    from tinylm_ablate.execute.litter import litter

    parser = argparse.ArgumentParser(prog="tinylm-ablate gc", description=gc.__doc__)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--delete", action="store_true", help="remove the listed files")
    options = parser.parse_args(list(arguments))
    if not options.runs_dir.is_dir():
        raise UserError(f"{options.runs_dir}: no such folder of runs; name it with --runs-dir")
    found = litter(options.runs_dir)
    for item in found:
        print(f"{item.bytes / 1e6:10,.1f} MB  {item.path}: {item.why}")
        if options.delete:
            item.remove()
    total = sum(item.bytes for item in found) / 1e6
    done = "removed" if options.delete else "can be removed with --delete"
    print(f"{len(found)} files and folders, {total:,.1f} MB, {done}" if found else "nothing to remove")
    return 0
