"""Actions of the command line on one config: the values of ``mode``."""

from __future__ import annotations

import sys
from pathlib import Path

from tinylm_ablate import progress
from tinylm_ablate.arch.shapes import OWN_BLOCKS
from tinylm_ablate.config import Config
from tinylm_ablate.config_values import check_values
from tinylm_ablate.errors import ConfigError, RunFailed, UserError
from tinylm_ablate.execute.walk import DONE
from tinylm_ablate.execute.words import say
from tinylm_ablate.extension import mistakes
from tinylm_ablate.settle import settle


def perform(config: Config) -> None:
    """Do what ``config.mode`` says."""
    if config.grid.work is not None:
        from tinylm_ablate.execute.worker import work

        work(Path(config.grid.work))
        return
    if config.mode not in {"run", "plan"}:  # these two report such mistakes together with others
        found = check_values(config)
        for name, needs in OWN_BLOCKS.items():  # a model's file may name a class, which only the command line imports
            found += mistakes(getattr(config.arch, name), f"arch.{name}", bool(getattr(config.arch, name)), "", needs)
        if found:
            raise ConfigError(found)
    progress.configure(config.progress)
    modes = {
        "run": _run, "plan": _plan, "generate": _generate, "export": _export, "coverage": _coverage, "status": _status,
        "evaluate": _evaluate, "sync": _sync,
    }  # fmt: skip
    modes[config.mode](config)


def _run(config: Config) -> None:
    from tinylm_ablate.execute.perform import perform as do
    from tinylm_ablate.execute.perform import results, unclaim
    from tinylm_ablate.tracking import sync

    settled = settle(config)
    unclaim(config)
    walk = do([("the run", settled)], config, quiet=True)
    # Pandas is needed for the table alone, and would delay the first step.
    from tinylm_ablate.frames.arms import evidence_of
    from tinylm_ablate.frames.grid_file import alone
    from tinylm_ablate.grid.result_table import summary_table

    for problem in sync(config.tracking, Path(config.runs_dir), folders=[settled.folder]).problems:
        say(problem)
    for state in walk.failed():
        if state.exception is not None:
            raise state.exception
        raise RunFailed(f"{state.task.name}: {state.error}")
    results(settled)  # raises for records that the table would omit
    if not any(state.state == DONE for state in walk.states.values()):
        print(f"already finished: {settled.folder}")
    print(summary_table(evidence_of(Path(config.runs_dir), alone(settled.identity))))


def _sync(config: Config) -> None:
    from tinylm_ablate.tracking import sync

    report = sync(config.tracking, Path(config.runs_dir))
    print(report)
    if report.problems:
        raise SystemExit(1)


def _status(config: Config) -> None:
    from tinylm_ablate.execute.status import show_status

    show_status([("the run", settle(config))])


def _plan(config: Config) -> None:
    from tinylm_ablate.execute.plan import plans

    print(plans([("the run", settle(config))], config.plan.format, read_text=config.plan.read_text))


def _coverage(config: Config) -> None:
    from tinylm_ablate.grid.coverage import write_coverage

    print(write_coverage([settle(config)]))


def _evaluate(config: Config) -> None:
    from tinylm_ablate.hardware import pick_device
    from tinylm_ablate.measure.benchmarks import benchmark_folder, score_table, settings_of
    from tinylm_ablate.measure.other_models import model_home

    if config.model is None and not (config.evaluate.tasks or config.evaluate.task_folder):
        _measure(config)
        return
    settings_of(config.evaluate)  # to report its mistakes first
    model = _model_folder(config)
    if model.name == "model" and (model.parent / "metrics.json").is_file():
        home = model.parent
    else:
        home = model_home(str(config.model), model, Path(config.runs_dir))
    benchmark_folder(model, home, config.evaluate, pick_device(config.train.device))
    print(score_table([("", home)], config.evaluate))


def _measure(config: Config) -> None:
    """Measure the run of the config, which must be finished."""
    from tinylm_ablate.execute.perform import perform as do
    from tinylm_ablate.tasks.graph import Graph

    settled = settle(config)
    if not (settled.folder / "metrics.json").exists():
        raise UserError(f"mode=evaluate: {settled.folder} is not finished; the same command without mode=evaluate trains it")
    if missing := Graph([("the run", settled)]).run(settled.identity).missing_points():
        raise UserError(
            f"mode=evaluate: the models of {settled.folder} after {', '.join(f'{step:,}' for step in missing)} steps were not "
            "kept; the same command without mode=evaluate trains it again and keeps them"
        )
    do([("the run", settled)], config, train=False, quiet=True)
    _run(config)


def _generate(config: Config) -> None:
    import torch

    from tinylm_ablate.arch.decoding import generate
    from tinylm_ablate.formats.huggingface import load_model, load_tokenizer

    if not config.prompt:
        raise ConfigError(["prompt=: allowed: text to continue, as in prompt='Once upon a time'"])
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
    from tinylm_ablate.formats.huggingface import Model, export

    if not config.folder:
        raise ConfigError(["folder=null: mode=export needs folder=WHERE"])
    gguf = config.export.format == "gguf"
    if gguf != config.folder.endswith(".gguf"):
        name = "the name of a file that ends in .gguf" if gguf else "the name of a folder; a file needs export.format=gguf"
        raise ConfigError([f"folder={config.folder}: allowed with export.format={config.export.format}: {name}"])
    if not gguf and config.export.weights != "f16":  # conf/config.yaml's default
        raise ConfigError([f"export.weights={config.export.weights}: allowed with export.format=gguf"])
    source = _model_folder(config)
    if source.suffix == ".gguf":
        raise UserError(f"model={source}: is a GGUF file already; allowed: a run or a Hugging Face folder")
    model = Model.read(source)
    if gguf:
        from tinylm_ablate.formats.gguf_export import export_gguf

        for note in export_gguf(Path(config.folder), model, config.export.weights):
            print(f"note: {note}", file=sys.stderr)
    else:
        export(Path(config.folder), model)
    print(f"exported to {config.folder}")


def _model_folder(config: Config) -> Path:
    """Resolve ``model``: a run's identity or folder, a Hugging Face folder, a GGUF file, a packaged or a hub model."""
    from tinylm_ablate.formats.hub_model import hub_model, is_hub_name
    from tinylm_ablate.formats.packaged import PACKAGED, packaged

    if config.model is None:
        folder = settle(config).folder / "model"
        if not folder.is_dir():
            raise UserError(f"model=null: the run of this config has no model yet in {folder}; choose one with model=")
        return folder
    for folder in (Path(config.runs_dir) / config.model / "model", Path(config.model) / "model", Path(config.model)):
        if folder.is_dir() or (folder.suffix == ".gguf" and folder.is_file()):
            return folder
    if config.model in PACKAGED:
        return packaged(config.model, "model")
    if is_hub_name(config.model):
        return hub_model(config.model, "model")
    raise UserError(
        f"model={config.model}: neither a run in {config.runs_dir}, nor a folder, nor a GGUF file, nor OWNER/NAME on the hub"
    )
