"""What the command line can do with one config: the values of ``mode``."""

from __future__ import annotations

from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.settle import settle


def perform(config: Config) -> None:
    """Do what ``config.mode`` says."""
    progress.configure(config.progress)
    {"run": _run, "plan": _plan, "generate": _generate, "export": _export}[config.mode](config)


def _run(config: Config) -> None:
    from tinylm_ablate.run import finished, run

    settled = settle(config)
    nested = config.tracking.run_name is not None  # a cell of a grid, whose sweeper tells the story
    if finished(settled.folder) is not None and not nested:
        print(f"already finished: {settled.folder}")
    record = run(config)
    if not nested:
        from tinylm_ablate.report import summary_table

        print(summary_table([({"run": settled.identity}, record)]))


def _plan(config: Config) -> None:
    from tinylm_ablate.grid.plan import plans

    print(plans([("the run", settle(config))], config.plan.format))


def _generate(config: Config) -> None:
    from tinylm_ablate.init.model import open_model

    if not config.prompt:
        raise ConfigError(["prompt=: allowed: the text to go on from, as in prompt='Once upon a time'"])
    print(config.prompt + open_model(_model_folder(config)).continue_text(config.prompt, config.generate, config.seed))


def _export(config: Config) -> None:
    from tinylm_ablate.init.model import open_model

    if not config.folder:
        raise ConfigError(["folder=null: mode=export needs folder=WHERE"])
    if Path(config.folder).exists():
        raise ConfigError([f"folder={config.folder}: it exists; allowed: a new folder"])
    open_model(_model_folder(config)).export(Path(config.folder))
    print(f"exported to {config.folder}")


def _model_folder(config: Config) -> Path:
    """The folder of the model that ``model`` names: a run's identity, a run's folder, or a Hugging Face folder."""
    if config.model is None:
        folder = settle(config).folder / "model"
        if not folder.is_dir():
            raise UserError(f"model=null: the run that the config describes has no model yet in {folder}; name one with model=")
        return folder
    for folder in (Path(config.runs_dir) / config.model / "model", Path(config.model) / "model", Path(config.model)):
        if folder.is_dir():
            return folder
    raise UserError(f"model={config.model}: neither a run in {config.runs_dir} nor a folder")
