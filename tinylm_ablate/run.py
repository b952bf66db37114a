"""One run, from text to record, in the order of the paper's pipeline."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate import progress
from tinylm_ablate.config import Config
from tinylm_ablate.data.once import writing
from tinylm_ablate.errors import Interrupted, UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.grid.claims import held
from tinylm_ablate.grid.outcome import attempts
from tinylm_ablate.hardware import pick_device
from tinylm_ablate.provenance import provenance
from tinylm_ablate.settle import Settled, settle

if TYPE_CHECKING:
    from tinylm_ablate.arch.decoder import Decoder

#: Version of the layout of ``metrics.json``.
RECORD_SCHEMA = 1

Record = dict[str, Any]
Watch = Callable[[dict[str, float]], bool]


def run(config: Config) -> Record:
    """Do one run, or return its record if it is finished.

    text -> tokenizer -> architecture -> initial weights -> training -> evaluation -> record

    Everything is kept in ``runs_dir/<identity>``: ``config.yaml`` as it was composed, ``provenance.json``, ``curve.jsonl``,
    ``matrix_std.json``, ``model/`` and, written last and atomically, ``metrics.json``: a run is finished when that file exists.
    The speed of generation and the skipping of layers are not part of what a run is; where they are asked of a finished one,
    they are measured and added.

    Raises:
        ConfigError: The config has mistakes; nothing was done.
        UserError: The text, the tokenizer or the parent cannot be used.
    """
    return complete(settle(config))


def complete(settled: Settled, watch: Watch | None = None, wait: bool = True) -> Record:
    """``run``, for one that is settled already.

    Args:
        settled: The run.
        watch: Called with every new row of the curve; True gives the run up.
        wait: Wait for another worker that does this run, where it would raise.

    Raises:
        Pruned: ``watch`` gave the run up; the same command without it goes on from there.
        Busy: Another worker does it.
    """
    record = as_asked(settled)
    if record is not None:
        return _with_extras(settled, record)
    folder, grid = settled.folder, settled.config.grid
    with writing(folder, None, "the run"), held(folder, grid.lease_seconds, wait):
        if (record := as_asked(settled)) is not None:  # another worker has done it meanwhile
            return _with_extras(settled, record)
        return attempts(lambda: _do(settled, folder, watch), folder, grid.retries)


def finished(folder: Path) -> Record | None:
    """The record of a finished run, or None."""
    path = folder / "metrics.json"
    if not path.exists():
        return None
    try:
        record: Record = json.loads(path.read_text())
    except ValueError:
        raise UserError(f"{path}: the record is damaged; remove the folder {folder}, and the run is done again") from None
    return record


def as_asked(settled: Settled) -> Record | None:
    """The record of a finished run; None also where its weights or the optimizer's state are wanted and were not kept."""
    record = finished(settled.folder)
    lost = settled.config.train.keep_model and not (settled.folder / "model").is_dir()
    lost |= settled.keep_state and not any((settled.folder / "checkpoint").glob("step-*"))
    return None if lost else record


def _do(settled: Settled, folder: Path, watch: Watch | None) -> Record:
    from omegaconf import OmegaConf

    from tinylm_ablate.train.lean import import_torchmetrics

    import_torchmetrics()  # before anything imports Lightning

    from tinylm_ablate.data.corpus import open_corpus
    from tinylm_ablate.data.shards import open_shards
    from tinylm_ablate.evaluate import evaluate
    from tinylm_ablate.init.build import initial_decoder
    from tinylm_ablate.init.huggingface import save_model
    from tinylm_ablate.init.random import matrix_std
    from tinylm_ablate.rounds.next import next_round, rows_of
    from tinylm_ablate.tokenizer.build import open_vocabulary
    from tinylm_ablate.tracking import RUN_FILES, open_tracker
    from tinylm_ablate.train.fit import fit

    config = settled.config
    progress.configure(config.progress)
    cache = Path(config.cache_dir)
    if settled.previous is not None:
        complete(settled.previous)
    elif settled.parent is not None:
        complete(settled.parent)

    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
    write_atomic(folder / "provenance.json", json.dumps(_provenance(settled), indent=2))

    corpus = open_corpus(config.data, cache)
    vocabulary = open_vocabulary(config.tokenizer, settled.shape.vocab_size, settled.source_vocab_size, corpus, cache)
    shards = open_shards(corpus, vocabulary, cache)

    rounds: list[Record] = []
    if settled.previous is None:
        decoder, origin = initial_decoder(settled, vocabulary)
        initial_std, start = matrix_std(decoder), None
    else:
        decoder, origin, initial_std, start, rounds = next_round(settled, shards.tokens("train"))

    tracker = open_tracker(config.tracking, Path(config.runs_dir))
    tracked = tracker.start_run(
        folder, _run_name(config), config.tracking.parent, parameters_of(settled), {"identity": settled.identity}
    )
    if start is not None and not (folder / "curve.jsonl").exists():
        tracked.log(rows_of(start))
    passes = settled.tokens / max(1, shards.count("train"))
    if passes > 1:
        print(f"note: {settled.tokens:,} tokens are {passes:.1f} passes over the training text", file=sys.stderr)

    def on_rows(rows: list[dict[str, float]]) -> bool:
        tracked.log(rows)
        return watch is not None and any(watch(row) for row in rows)

    try:
        trained = fit(decoder, shards.tokens("train"), settled, folder, on_rows, start)
        decoder.to(pick_device(config.train.device))
        evaluation = evaluate(decoder, vocabulary, corpus, config.evaluate, config.train.context_length)
        decoder.cpu()
        if config.train.keep_model:
            save_model(folder / "model", decoder, vocabulary, config.train.context_length)
        evaluation.save(folder)
        rows = [{**before, "trained_std": after["std"]} for before, after in zip(initial_std, matrix_std(decoder), strict=True)]
        write_atomic(folder / "matrix_std.json", json.dumps(rows))
        record = _record(settled, vocabulary.summary, corpus.summary, origin, trained, evaluation.metrics) | {"passes": passes}
        record |= {"rounds": rounds} if rounds else {}
        record = _extended(settled, record, decoder)
        write_atomic(folder / "metrics.json", _as_json(record))
    except BaseException as error:
        tracked.finish({}, [], "FAILED" if isinstance(error, Exception) and not isinstance(error, Interrupted) else "KILLED")
        raise
    if not settled.keep_state:
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    results = evaluation.metrics | record["metrics"]
    tracked.finish(results, [folder / name for name in RUN_FILES], "FINISHED", settled.tokens)
    return record


def _record(
    settled: Settled, vocabulary: Record, corpus: Record, origin: Record, trained: Any, metrics: dict[str, float]
) -> Record:
    from tinylm_ablate.arch.costs import flops_6n_attention, flops_utilisation
    from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters

    shape, train = settled.shape, settled.config.train
    accelerator = provenance()["machine"]["accelerator"] if pick_device(train.device) == "cuda" else None
    flops = flops_6n_attention(shape, train.context_length)
    utilisation = flops_utilisation(flops, trained.tokens_per_second, accelerator)
    return {
        "schema": RECORD_SCHEMA,
        "identity": settled.identity,
        "seed": settled.config.seed,
        "config": dataclasses.asdict(settled.config),
        "shape": dataclasses.asdict(shape),
        "parameters": parameters(shape),
        "embedding_head_share": embedding_head_share(shape),
        "flops_per_token": flops_per_token(shape, train.context_length),
        "tokens": settled.tokens,
        "steps": settled.steps,
        "learning_rate": settled.learning_rate,
        "precision": settled.precision,
        "tokenizer": vocabulary,
        "data": corpus,
        "init": origin,
        "metrics": metrics
        | {
            "train/loss": trained.loss,
            "train/seconds": trained.seconds,
            "train/tokens_per_second": trained.tokens_per_second,
            "train/skipped_steps": trained.skipped,
        }
        | ({} if utilisation is None else {"train/model_flops_utilisation": utilisation}),
        "provenance": _provenance(settled),
    }


def _provenance(settled: Settled) -> Record:
    """Code, versions and machine, and what the run reads: fingerprints of its text and its tokenizer."""
    return provenance() | {"text": settled.text, "vocabulary": settled.vocabulary}


def _with_extras(settled: Settled, record: Record) -> Record:
    """The record of a finished run with what the config asks for beyond it; its file is then written anew."""
    extended = _extended(settled, record)
    if extended is not record:
        from tinylm_ablate.tracking import open_tracker

        write_atomic(settled.folder / "metrics.json", _as_json(extended))
        tracker = open_tracker(settled.config.tracking, Path(settled.config.runs_dir))
        tracker.amend(settled.folder, extended["metrics"], settled.tokens)
    return extended


def _extended(settled: Settled, record: Record, decoder: Decoder | None = None) -> Record:
    """The record with what is measured beside the run, where the config asks for it and it is not there yet."""
    from tinylm_ablate.rounds.forgetting import with_forgetting

    record = _with_layer_skip(settled, _with_decode_speed(settled, record), decoder)
    return with_forgetting(settled, record) if settled.config.rounds.forgetting else record


def _with_decode_speed(settled: Settled, record: Record) -> Record:
    """The record with the speed of generation, if the config asks for it."""
    config = settled.config
    if not config.evaluate.decode.measure:
        return record
    from tinylm_ablate.evaluate.speed import METRIC, decode_speed_once, protocol

    wanted = protocol(config.evaluate.decode, config.train.device, config.train.threads)
    if METRIC in record["metrics"] and record.get("decode") == wanted:
        return record
    speed = decode_speed_once(settled.shape, wanted, Path(config.cache_dir))
    return record | {"decode": wanted, "metrics": record["metrics"] | {METRIC: speed}}


def _with_layer_skip(settled: Settled, record: Record, decoder: Decoder | None = None) -> Record:
    """The record with what skipping layers does, if the config asks for it; the rows are in ``layer_skip.parquet``.

    Args:
        settled: The run.
        record: Its record.
        decoder: The trained model, on the CPU; by default the one that the run kept.
    """
    config, folder = settled.config, settled.folder
    wanted = config.evaluate.layer_skip
    if not wanted:
        return record
    from tinylm_ablate.evaluate.layer_skip import read, save, suffices, summary

    rows = read(folder) if decoder is None else []
    if not suffices(rows, wanted, settled.shape.depth):
        rows = _skip_layers(settled, decoder)
        save(rows, folder)
    extended = record | {"metrics": record["metrics"] | summary(rows)}
    return record if extended == record else extended


def _skip_layers(settled: Settled, decoder: Decoder | None) -> list[Record]:
    from tinylm_ablate.data.corpus import open_corpus
    from tinylm_ablate.evaluate.layer_skip import layer_skip
    from tinylm_ablate.init.huggingface import load_model
    from tinylm_ablate.tokenizer.build import open_vocabulary

    config, folder = settled.config, settled.folder
    if decoder is None and not (folder / "model").is_dir():
        raise UserError(
            f"evaluate.layer_skip={config.evaluate.layer_skip}: the weights of {folder} were not kept; "
            "with train.keep_model=true the run is done again"
        )
    progress.configure(config.progress)
    cache = Path(config.cache_dir)
    corpus = open_corpus(config.data, cache)
    vocabulary = open_vocabulary(config.tokenizer, settled.shape.vocab_size, settled.source_vocab_size, corpus, cache)
    model = (load_model(folder / "model") if decoder is None else decoder).to(pick_device(config.train.device))
    rows = layer_skip(model, vocabulary, corpus, config.evaluate, config.train.context_length)
    model.cpu()
    return rows


def _as_json(record: Record) -> str:
    return json.dumps(record, indent=1, sort_keys=True, allow_nan=False)


def _run_name(config: Config) -> str:
    return config.tracking.run_name or f"{config.experiment.name} seed={config.seed}"


#: Settings that say nothing about a run in a table of runs; all of them stand in its ``config.yaml``.
_UNTOLD = ("tracking.", "experiment.", "grid.", "search.", "generate.", "plan.", "scale.")
_UNTOLD_KEYS = {"mode", "model", "prompt", "folder", "progress", "runs_dir", "cache_dir", "results_dir", "seeds"}


def parameters_of(settled: Settled) -> dict[str, Any]:
    """The settings as MLflow's parameters, under dotted keys; ``arch`` and ``tokenizer.vocab_size`` as what they came to."""
    from tinylm_ablate.arch.shapes import embedding_head_share, parameters
    from tinylm_ablate.config import walk

    shape = settled.shape
    told = {
        key: value
        for key, value, _ in walk(settled.config)
        if value is not None and key not in _UNTOLD_KEYS and not key.startswith(_UNTOLD)
    }
    told |= {f"arch.{key}": value for key, value in dataclasses.asdict(shape).items() if key != "vocab_size"}
    return told | {
        "scale": settled.config.scale.name,
        "tokenizer.vocab_size": shape.vocab_size,
        "arch.parameters": parameters(shape)["total"],
        "embedding_head_share": round(embedding_head_share(shape), 2),
        "init.parent": settled.parent.identity if settled.parent else settled.config.init.parent or "none",
        "train.tokens": settled.tokens,
        "train.steps": settled.steps,
        "learning_rate": settled.learning_rate,
        "precision": settled.precision,
    }
