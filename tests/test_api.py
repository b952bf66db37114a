"""The functions of the package, as in a notebook."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import tinylm_ablate
from tinylm_ablate.errors import ConfigError


def test_a_grid_is_a_function_whatever_was_imported_before(tmp_path: Path) -> None:
    """The package has a module of that name, too. Each case is a fork of a process that has imported what others wrote."""
    code = """
import os, sys
import hydra, omegaconf, pandas, pydantic, tokenizers
words = ["data=files", "data.path=absent.txt"]
for before in ("tla.plan(*words)", "import tinylm_ablate.grid.cells", "tla.runs"):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
        continue
    import tinylm_ablate as tla
    try:
        exec(before)
    except tla.errors.UserError:
        pass
    for _ in range(2 if before.startswith("tla.plan") else 1):
        try:
            tla.grid(*words, "arch.dept=1,2", "init=gpt2,inhert")
        except tla.errors.ConfigError as error:
            print(error)
    sys.stdout.flush()
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.count("arch.dept: no such key; did you mean arch.depth?") == 4, done.stdout
    assert done.stdout.count("init=inhert: no such choice; did you mean inherit?") == 4


@pytest.mark.parametrize("name", ["plan", "run"])
def test_all_mistakes_are_raised_together(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        getattr(tinylm_ablate, name)("arch.dept=1", "init=inhert", "+train.tokenz=1")
    for mistake in ("arch.dept: no such key", "init=inhert: no such choice", "train.tokenz: no such key"):
        assert mistake in str(error.value)
