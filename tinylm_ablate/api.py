"""Python interface to the command line (``run``, ``grid``, ``plan``) and to trained models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from tinylm_ablate.arguments import normalize
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, RunFailed, first_line
from tinylm_ablate.grid import compose, diagnosis

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tinylm_ablate.arch.decoder import Decoder


def run(*overrides: str) -> dict[str, Any]:
    """Train and measure one run, or read its record if it is finished.

    Args:
        overrides: As on the command line: ``run("arch.depth=20", "train.tokens=2M")``.

    Returns:
        The record: settings, sizes, and ``metrics`` by flat name.

    Raises:
        ConfigError: Mistakes in the settings; nothing was run.
        UserError: The corpus, the tokenizer or the parent cannot be used.
        RunFailed: The run failed.
    """
    from tinylm_ablate.execute.perform import perform, results
    from tinylm_ablate.settle import settle

    config = _composed(overrides)
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
        One row per run (see ``runs``).

    Raises:
        ConfigError: Mistakes in any cell; nothing was run.
        RunFailed: A cell failed; the others are finished.
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
        except compose.COMPOSITION_ERRORS as error:
            raise _explained(error, overrides, grid=True) from None
        except SystemExit:
            raise RunFailed("a cell of the grid failed; see the printed message") from None
    folder = compose.compose([word for word in _words(overrides, grid=True) if word.startswith("runs_dir=")]).runs_dir
    found = runs(folder)
    return found[found["identity"].isin(identities)].reset_index(drop=True)


def plan(*overrides: str) -> dict[str, Any]:
    """Plan one run, without training: parameters, FLOPs, memory, seconds.

    Raises:
        ConfigError: Mistakes in the settings.
    """
    from tinylm_ablate.execute.plan import plan as planned
    from tinylm_ablate.settle import settle

    return planned("the run", settle(_composed((*overrides, "mode=plan"))))


def load_model(folder: str | Path) -> tuple[Decoder, Tokenizer]:
    """Load a trained model from the folder of a run or a Hugging Face folder.

    Returns:
        The decoder (a ``torch.nn.Module`` with ``loss`` and ``logits``) and its tokenizer.

    Raises:
        UserError: The model does not exist or is damaged.
    """
    from tinylm_ablate.formats import huggingface

    place = Path(folder)
    place = place / "model" if (place / "model").is_dir() else place
    return huggingface.load_model(place), huggingface.load_tokenizer(place)[0]


def _composed(overrides: tuple[str, ...]) -> Config:
    try:
        return compose.compose(_words(overrides))
    except compose.COMPOSITION_ERRORS as error:
        raise _explained(error, overrides) from None


def _explained(error: Exception, overrides: tuple[str, ...], grid: bool = False) -> ConfigError:
    """Return all mistakes in settings that do not compose."""
    return ConfigError(diagnosis.diagnose(_words(overrides, grid), grid) or [first_line(error)])


def _words(overrides: tuple[str, ...], grid: bool = False) -> list[str]:
    words = normalize(overrides, grid).overrides
    diagnosis.check_files(words, grid)
    return words


def _worker(config: Any) -> None:
    """Function that a launcher's worker runs."""
    from tinylm_ablate.execute.worker import work

    work(Path(config.grid.work))
