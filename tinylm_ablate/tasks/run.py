"""The task that trains one run, from its initial weights to its record."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinylm_ablate import progress
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.hardware import pick_device
from tinylm_ablate.provenance import provenance
from tinylm_ablate.secrets import cut
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.base import Task
from tinylm_ablate.tracking import Follower

#: Version of the layout of ``metrics.json``.
RECORD_SCHEMA = 2

Record = dict[str, Any]
Watch = Callable[[dict[str, float]], bool]


class RunTask(Task):
    """Trains a run.

    Everything is kept in ``runs_dir/<identity>``: ``settled.json`` and ``config.yaml``, ``provenance.json``, ``curve.jsonl``,
    ``matrix_std.json``, ``model/`` and, written last and atomically, ``metrics.json``, which is never rewritten.

    Attributes:
        watch: Called with every new row of the curve; True prunes the run.
        stems: Names of the records that are to be measured of it. Until they are there, the weights are kept.
    """

    kind = "run"

    def __init__(self, name: str, run: Settled, needs: list[Task], stems: list[str]) -> None:
        super().__init__(run.identity, name, run, needs)
        self.stems = stems
        self.watch: Watch | None = None

    @property
    def product(self) -> Path:
        return self.run.folder / "metrics.json"

    @property
    def log(self) -> Path:
        return self.run.folder / "error.txt"

    def done(self) -> bool:
        """Whether the record exists, and the weights or the optimizer's state where they are to be kept."""
        folder = self.run.folder
        return (
            self.product.exists()
            and (not self.run.config.train.keep_model or (folder / "model").is_dir())
            and (not self.run.keep_state or any((folder / "checkpoint").glob("step-*")))
        )

    def do(self, tracked: Follower) -> None:
        tracked.add(self.run.folder)
        try:
            train(self.run, self.watch)
        finally:
            tracked.done(self.run.folder)
        self.tidy()

    def tidy(self) -> None:
        folder = self.run.folder
        for left in folder.glob(".*.*"):  # half-written files and folders of a worker that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        if not self.run.keep_state:
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        self.drop_model()

    def drop_model(self) -> None:
        """Remove weights that nobody asked to keep, once everything is measured on them."""
        folder = self.run.folder
        if not self.run.config.train.keep_model and all((folder / "measures" / f"{stem}.json").exists() for stem in self.stems):
            shutil.rmtree(folder / "model", ignore_errors=True)

    def result(self) -> str:
        metrics = read_metrics(self.run.folder)["metrics"]
        return f"training loss {metrics['train/loss']:.4f}, {metrics['train/seconds']:.0f} s"


def read_metrics(folder: Path) -> Record:
    """The record of a finished run.

    Raises:
        UserError: It is missing, damaged or of another version.
    """
    path = folder / "metrics.json"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such record; the run is not finished") from None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        raise UserError(f"{path}: the record is damaged; remove the folder {folder}, and the run is trained again")
    if record.get("schema") != RECORD_SCHEMA:
        raise UserError(
            f"{path}: a record of schema {record.get('schema')}, and this version reads {RECORD_SCHEMA}; "
            "read it with the version that wrote it, or remove the folder"
        )
    return record


def train(settled: Settled, watch: Watch | None = None) -> None:
    """Train a run whose needs are met: corpus -> tokenizer -> shards -> initial weights -> training -> record.

    Raises:
        UserError: The text, the tokenizer or the parent cannot be used.
        RunFailed: A loss or gradient was not finite.
        Interrupted: A signal stopped it; its state is saved.
        Pruned: ``watch`` returned True; its state is saved.
    """
    from omegaconf import OmegaConf

    from tinylm_ablate.train.lean import import_torchmetrics

    import_torchmetrics()  # before anything imports Lightning

    from tinylm_ablate.data.summary import passes, passes_in_words
    from tinylm_ablate.formats.huggingface import save_model
    from tinylm_ablate.init.build import initial_decoder
    from tinylm_ablate.init.random import matrix_std
    from tinylm_ablate.measure.base import Subject
    from tinylm_ablate.rounds.next import curve_of, next_round
    from tinylm_ablate.train.fit import fit

    config, folder = settled.config, settled.folder
    progress.configure(config.progress)
    described = cut(json.loads(settled.to_json()))
    write_atomic(folder / "settled.json", json.dumps(described, indent=1, ensure_ascii=False))
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(described["config"])))
    about = provenance() | {"text": settled.text, "vocabulary": settled.vocabulary}
    write_atomic(folder / "provenance.json", json.dumps(about, indent=2))

    subject = Subject(settled)
    corpus, vocabulary, shards = subject.corpus, subject.vocabulary, subject.shards
    rounds: list[Record] = []
    if settled.previous is None:
        decoder, origin = initial_decoder(settled, vocabulary)
        initial_std, start = matrix_std(decoder), None
    else:
        decoder, origin, initial_std, start, rounds = next_round(settled, shards.tokens("train"))
        if not (folder / "curve.jsonl").exists():
            curve_of(settled.previous, folder)
    over = passes(config.data, shards, settled.tokens)
    if max(over.values()) > 1:
        print(f"note: {settled.tokens:,} tokens are {passes_in_words(over)} passes over the training text", file=sys.stderr)

    def on_rows(rows: list[dict[str, float]]) -> bool:
        return watch is not None and any(watch(row) for row in rows)

    trained = fit(decoder, shards.tokens("train"), settled, folder, on_rows, start)
    decoder.cpu()
    context = config.train.context_length
    save_model(folder / "model", decoder, vocabulary.folder / "tokenizer.json", vocabulary.end_of_text, context)
    rows = [{**before, "trained_std": after["std"]} for before, after in zip(initial_std, matrix_std(decoder), strict=True)]
    write_atomic(folder / "matrix_std.json", json.dumps(rows))
    record = _record(settled, vocabulary.summary, corpus.summary, origin, trained, about) | {"passes": max(over.values())}
    record |= {"rounds": rounds} if rounds else {}
    write_atomic(folder / "metrics.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False))


def _record(settled: Settled, vocabulary: Record, corpus: Record, origin: Record, trained: Any, about: Record) -> Record:
    """What training resulted in."""
    from tinylm_ablate.arch.costs import flops_6n_attention, flops_utilisation
    from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters

    shape, train = settled.shape, settled.config.train
    accelerator = provenance()["machine"]["accelerator"] if pick_device(train.device) == "cuda" else None
    flops = flops_6n_attention(shape, train.context_length)
    utilisation = flops_utilisation(flops, trained.tokens_per_second, accelerator)
    metrics = {
        "train/loss": trained.loss,
        "train/seconds": trained.seconds,
        "train/tokens_per_second": trained.tokens_per_second,
        "train/skipped_steps": trained.skipped,
    }
    return {
        "schema": RECORD_SCHEMA,
        "identity": settled.identity,
        "seed": settled.config.seed,
        "config": cut(dataclasses.asdict(settled.config)),
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
        "metrics": metrics | ({} if utilisation is None else {"train/model_flops_utilisation": utilisation}),
        "provenance": about,
    }
