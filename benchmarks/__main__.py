"""``python -m benchmarks [NAME[.PART] ...] [--windows N]``: run benchmarks, and write their results and a table."""

from __future__ import annotations

import argparse
import importlib
import sys

from benchmarks.measure import save
from benchmarks.table import NAMES, write_table


def main() -> None:
    """Run the requested benchmarks; by default, all except for those that need a GPU, and the soak test."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME[.PART]", help=f"of {', '.join(NAMES)}; 'table' only writes the table")
    parser.add_argument("--windows", type=int, default=5, help="measurements of each path, in turn (5)")
    parser.add_argument("--dry", action="store_true", help="keep no result; to fill the caches of compiled code")
    given = parser.parse_args()
    if given.dry:
        given.windows = 1
    for name in given.names or [name for name in NAMES if name not in ("gpu", "soak")]:
        if name == "table":
            continue
        name, _, part = name.partition(".")
        if name not in NAMES:
            parser.error(f"{name}: allowed: {', '.join(NAMES)}")
        module = importlib.import_module(f"benchmarks.{name}")
        if part and part not in module.PARTS:
            parser.error(f"{name}.{part}: allowed: {', '.join(module.PARTS)}")
        for each in (part,) if part else module.PARTS:
            print(f"{name}.{each}", file=sys.stderr, flush=True)
            result = module.run(each, given.windows)
            if not given.dry:
                save(name, each, result)
    write_table()


if __name__ == "__main__":
    main()
