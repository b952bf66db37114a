"""The command line from Python: ``run``, ``grid`` and ``plan``; and a trained model as objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tinylm_ablate.arguments import normalize
from tinylm_ablate.errors import RunFailed
from tinylm_ablate.grid import compose

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tinylm_ablate.arch.decoder import Decoder


def run(*overrides: str) -> dict[str, Any]:
    """Train and measure one run, or read it if it is finished.

    Args:
        overrides: As on the command line: ``run("arch.depth=20", "train.tokens=2M")``.

    Returns:
        The record: settings, sizes, and ``metrics`` by flat name.

    Raises:
        ConfigError: Mistakes in the settings; nothing was run.
        UserError: The text, the tokenizer or the parent cannot be used.
        RunFailed: The run failed.
    """
    from tinylm_ablate.execute.perform import perform, results
    from tinylm_ablate.settle import settle

    config = compose.compose(_words(overrides))
    settled = settle(config)
    for state in perform([("the run", settled)], config, quiet=True).failed():
        raise state.exception or RunFailed(f"{state.task.name}: {state.error}")
    record = results(settled)
    assert record is not None
    return record


def grid(*overrides: str) -> pd.DataFrame:
    """Train and measure a grid: every combination of the values, as with ``-m``.

    Args:
        overrides: As on the command line: ``grid("arch.depth=20,40", "seeds=3")``.

    Returns:
        Its runs, one row each (see ``runs``).

    Raises:
        ConfigError: Mistakes in any cell; nothing was run.
        RunFailed: A cell failed; the others are done.
    """
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from tinylm_ablate.paths import conf_dir
    from tinylm_ablate.report.notebook import runs

    compose.register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        try:
            identities = hydra.multirun("config", _worker, _words(overrides, grid=True), with_log_configuration=False)
        except SystemExit:
            raise RunFailed("a cell of the grid failed; what was printed says why") from None
    folder = compose.compose([word for word in _words(overrides, grid=True) if word.startswith("runs_dir=")]).runs_dir
    found = runs(folder)
    return found[found["identity"].isin(identities)].reset_index(drop=True)


def plan(*overrides: str) -> dict[str, Any]:
    """Plan of one run: parameters, FLOPs, memory, seconds; nothing is trained.

    Raises:
        ConfigError: Mistakes in the settings.
    """
    from tinylm_ablate.execute.plan import plan as planned
    from tinylm_ablate.settle import settle

    return planned("the run", settle(compose.compose([*_words(overrides), "mode=plan"])))


def load_model(folder: str | Path) -> tuple[Decoder, Tokenizer]:
    """A trained model: the folder of a run, or one in Hugging Face's layout.

    Returns:
        The decoder (a ``torch.nn.Module`` with ``loss`` and ``logits``) and its tokenizer.

    Raises:
        UserError: There is no such model, or it is damaged.
    """
    from tinylm_ablate.formats import huggingface

    place = Path(folder)
    place = place / "model" if (place / "model").is_dir() else place
    return huggingface.load_model(place), huggingface.load_tokenizer(place)[0]


def _words(overrides: tuple[str, ...], grid: bool = False) -> list[str]:
    words = normalize(overrides, grid).overrides
    compose.check_files(words, grid)
    return words


def _worker(config: Any) -> None:
    """Work of a launcher's worker."""
    from tinylm_ablate.execute.worker import work

    work(Path(config.grid.work))
