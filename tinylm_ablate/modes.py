"""What the command line can do with one config: the values of ``mode``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate import progress
from tinylm_ablate.config import Config, check_values
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.settle import settle

if TYPE_CHECKING:
    from tinylm_ablate.grid.outcome import Outcome


def perform(config: Config) -> None:
    """Do what ``config.mode`` says."""
    if config.mode not in {"run", "plan"} and (mistakes := check_values(config)):
        raise ConfigError(mistakes)
    progress.configure(config.progress)
    modes = {
        "run": _run, "plan": _plan, "generate": _generate, "export": _export, "coverage": _coverage, "status": _status,
        "evaluate": _evaluate,
    }  # fmt: skip
    modes[config.mode](config)


def perform_cell(config: Config) -> Outcome:
    """Do a cell of a grid, or the run ``grid.part`` that it needs; the grid's sweeper tells the story."""
    from tinylm_ablate.grid.needs import part
    from tinylm_ablate.grid.work import attempt

    return attempt(part(settle(config), config.grid.part))


def _run(config: Config) -> None:
    from tinylm_ablate.report import summary_table
    from tinylm_ablate.run import complete, finished

    settled = settle(config)
    if finished(settled.folder) is not None:
        print(f"already finished: {settled.folder}")
    print(summary_table([({"run": settled.identity}, complete(settled))]))


def _status(config: Config) -> None:
    from tinylm_ablate.grid.status import show_status

    show_status([("the run", settle(config))])


def _plan(config: Config) -> None:
    from tinylm_ablate.grid.plan import plans

    print(plans([("the run", settle(config))], config.plan.format))


def _coverage(config: Config) -> None:
    from tinylm_ablate.grid.coverage import write_coverage

    print(write_coverage([settle(config)]))


def _evaluate(config: Config) -> None:
    from tinylm_ablate.grid.benchmarks import show_scores

    show_scores([("", _model_folder(config))], config)


def _generate(config: Config) -> None:
    import torch

    from tinylm_ablate.arch.decoding import generate
    from tinylm_ablate.formats.huggingface import load_model, load_tokenizer

    if not config.prompt:
        raise ConfigError(["prompt=: allowed: the text to go on from, as in prompt='Once upon a time'"])
    folder = _model_folder(config)
    decoder = load_model(folder).eval()
    tokenizer, end_of_text = load_tokenizer(folder)
    prompt = tokenizer.encode(config.prompt, add_special_tokens=False).ids
    start = prompt if end_of_text is None else [end_of_text, *prompt]
    settings = config.generate
    tokens = generate(
        decoder,
        torch.tensor([start]),
        settings.new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        seed=config.seed,
        end_of_text=end_of_text,
    )
    print(config.prompt + tokenizer.decode(tokens[0, len(start) :].tolist(), skip_special_tokens=True))


def _export(config: Config) -> None:
    from tinylm_ablate.formats.huggingface import export, load, load_tokenizer

    if not config.folder:
        raise ConfigError(["folder=null: mode=export needs folder=WHERE"])
    gguf = config.export.format == "gguf"
    if gguf != config.folder.endswith(".gguf"):
        name = "the name of a file that ends in .gguf" if gguf else "the name of a folder, or export.format=gguf"
        raise ConfigError([f"folder={config.folder}: allowed with export.format={config.export.format}: {name}"])
    source = _model_folder(config)
    shape, state = load(source)
    _, end_of_text = load_tokenizer(source)
    if source.suffix == ".gguf":
        raise UserError(f"model={source}: is a GGUF file already; allowed: a run or a Hugging Face folder")
    context = json.loads((source / "config.json").read_text())["max_position_embeddings"]
    if gguf:
        from tinylm_ablate.formats.gguf_export import export_gguf

        given = (Path(config.folder), state, shape, source / "tokenizer.json", context, end_of_text)
        for note in export_gguf(*given, config.export.weights):
            print(f"note: {note}", file=sys.stderr)
    else:
        export(Path(config.folder), state, shape, source / "tokenizer.json", context, end_of_text)
    print(f"exported to {config.folder}")


def _model_folder(config: Config) -> Path:
    """The folder of the model that ``model`` names: a run's identity, a run's folder, or a Hugging Face folder."""
    if config.model is None:
        folder = settle(config).folder / "model"
        if not folder.is_dir():
            raise UserError(f"model=null: the run that the config describes has no model yet in {folder}; name one with model=")
        return folder
    for folder in (Path(config.runs_dir) / config.model / "model", Path(config.model) / "model", Path(config.model)):
        if folder.is_dir() or (folder.suffix == ".gguf" and folder.is_file()):
            return folder
    raise UserError(f"model={config.model}: neither a run in {config.runs_dir}, nor a folder, nor a GGUF file")
