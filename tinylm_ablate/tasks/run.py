"""Task that trains one run, from its initial weights to its record."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate import points, progress
from tinylm_ablate.errors import Busy, UserError
from tinylm_ablate.files import remove_unfinished, write_atomic
from tinylm_ablate.hardware import pick_device
from tinylm_ablate.provenance import provenance
from tinylm_ablate.secrets import cut
from tinylm_ablate.settled import Settled
from tinylm_ablate.tasks.task import Task
from tinylm_ablate.tracking import Follower
from tinylm_ablate.train.stack_key import stack_key, stack_size

if TYPE_CHECKING:
    from torch import Tensor

    from tinylm_ablate.measure.subject import Subject
    from tinylm_ablate.train.member import Checkpoint, Member, OnPoint, Trained

#: Version of the format of ``metrics.json``.
RECORD_SCHEMA = 2

#: Files that training writes to the folder of a run, atomically.
_WRITTEN = (
    "settled.json", "config.yaml", "provenance.json", "curve.jsonl", "events.jsonl", "matrix_std.json", "model", "metrics.json",
    "error.txt",
)  # fmt: skip

Record = dict[str, Any]
Watch = Callable[[dict[str, float]], bool]


class RunTask(Task):
    """Trains a run.

    The files are in ``runs_dir/<identity>``: ``settled.json`` and ``config.yaml``, ``provenance.json``, ``curve.jsonl``,
    ``matrix_std.json``, ``model/`` and, written last and atomically, ``metrics.json``, which is never rewritten.

    Attributes:
        watch: Called with every new row of the curve; True prunes the run.
        cell: Whether the run was requested itself, rather than only needed by others.
        stems: Names of the records to measure. The weights are kept until all exist.
        points: The same for its intermediate models, by optimizer steps; those in ``points.kept`` may have none.
    """

    kind = "run"

    def __init__(self, name: str, run: Settled, needs: list[Task], stems: list[str]) -> None:
        super().__init__(run.identity, name, run, needs)
        self.stems = stems
        self.points: dict[int, list[str]] = {step: [] for step in points.kept(run)}
        self.watch: Watch | None = None
        self.cell = True

    @property
    def product(self) -> Path:
        return self.run.folder / "metrics.json"

    @property
    def log(self) -> Path:
        return self.run.folder / "error.txt"

    def done(self) -> bool:
        """Return whether the record and the requested weights, optimizer state and intermediate models exist."""
        folder = self.run.folder
        return (
            self.product.exists()
            and (not self.run.config.train.keep_model or (folder / "model").is_dir())
            and (not self.run.keep_state or _has_checkpoint(folder))
            and not self.missing_points()
        )

    def missing_points(self) -> list[int]:
        """Optimizer steps whose requested models are missing, ascending."""
        kept = set(points.kept(self.run))
        return [step for step in sorted(self.points) if not self._has_point(step, step in kept)]

    def _has_point(self, step: int, keep: bool) -> bool:
        folder = point_folder(self.run, step)
        if (folder / "model").is_dir():
            return not keep or _has_checkpoint(folder)
        return not keep and _measured(folder, self.points[step])

    def most_together(self, ready: int) -> int:
        return 1 if self.watch is not None else stack_size(self.run, ready)

    @property
    def together(self) -> Hashable:
        return stack_key(self.run)

    def do_together(self, tasks: Sequence[Task], tracked: Follower) -> list[Exception | None]:
        runs = [task for task in tasks if isinstance(task, RunTask)]
        for task in runs:
            tracked.add(task.run.folder)
        try:
            return _train_together(runs)
        finally:
            for task in runs:
                tracked.done(task.run.folder)

    def tidy(self) -> None:
        folder = self.run.folder
        remove_unfinished(*(folder / name for name in _WRITTEN))
        kept = [point_folder(self.run, step) for step in self.points]
        for place in kept:
            remove_unfinished(place / "model")
        for place in (folder, *kept):
            for left in (place / "checkpoint").glob(".step-*"):  # of any step, not only the last
                shutil.rmtree(left, ignore_errors=True)
        if not self.run.keep_state:
            shutil.rmtree(folder / "checkpoint", ignore_errors=True)
        self.drop_model()

    def drop_model(self) -> None:
        """Remove weights that were not requested, once all measures on them are done."""
        if not self.run.config.train.keep_model and _measured(self.run.folder, self.stems):
            shutil.rmtree(self.run.folder / "model", ignore_errors=True)
        kept = set(points.kept(self.run))
        for step, stems in self.points.items():
            if step not in kept and _measured(point_folder(self.run, step), stems):
                shutil.rmtree(point_folder(self.run, step) / "model", ignore_errors=True)

    @property
    def weight(self) -> float:
        return float((self.run.steps - self.run.rounds.start) * self.run.config.train.batch_tokens)

    def result(self) -> str:
        metrics = read_metrics(self.run.folder)["metrics"]
        if not self.run.steps:
            return "used without training"
        return f"training loss {metrics['train/loss']:.4f}, {metrics['train/seconds']:.0f} s"


def point_folder(run: Settled, step: int) -> Path:
    """Folder of a run's model after ``step`` steps."""
    return dataclasses.replace(run, at=step).folder


def _has_checkpoint(folder: Path) -> bool:
    """Return whether a whole checkpoint is in the folder of a run or of an intermediate model."""
    return any((folder / "checkpoint").glob("step-*"))


def _measured(folder: Path, stems: Sequence[str]) -> bool:
    """Return whether all records of a model exist."""
    return all((folder / "measures" / f"{stem}.json").exists() for stem in stems)


def read_metrics(folder: Path) -> Record:
    """Read the record of a finished run.

    Raises:
        UserError: It is missing, damaged or from another version.
    """
    path = folder / "metrics.json"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such record; the run is not finished") from None
    except ValueError:
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("metrics"), dict):
        raise UserError(f"{path}: the record is damaged; remove the folder {folder} to train the run again")
    if record.get("schema") != RECORD_SCHEMA:
        raise UserError(
            f"{path}: the record has schema {record.get('schema')}, but this version reads {RECORD_SCHEMA}; "
            "read it with the version that wrote it, or remove the folder"
        )
    return record


@dataclass(frozen=True)
class _Prepared:
    """A run that is ready to train, and the content of its record."""

    member: Member
    subject: Subject
    about: Record
    origin: Record
    initial_std: list[Record]
    rounds: list[Record]
    passes: float

    def finish(self, trained: Trained | None) -> None:
        """Store the weights, and write the record; ``trained`` is None for a model that is not trained here."""
        from tinylm_ablate.formats.huggingface import Model, save
        from tinylm_ablate.init.random import matrix_std

        settled, folder, decoder = self.member.settled, self.member.folder, self.member.decoder.cpu()
        vocabulary = self.subject.vocabulary
        context = settled.config.train.context_length
        had_model = (folder / "model").is_dir()
        tokenizer = vocabulary.folder / "tokenizer.json"
        save(folder / "model", Model(decoder.state_dict(), decoder.shape, tokenizer, context, vocabulary.end_of_text))
        stds = zip(self.initial_std, matrix_std(decoder), strict=True)
        write_atomic(folder / "matrix_std.json", json.dumps([{**old, "trained_std": new["std"]} for old, new in stds]))
        record = _record(settled, vocabulary.summary, self.subject.corpus.summary, self.origin, trained, self.about)
        record |= {"passes": self.passes, "stack": trained.runs if trained else 1} | (
            {"rounds": self.rounds} if self.rounds else {}
        )
        if (folder / "metrics.json").exists() and had_model:  # trained again for intermediate models: the record is kept
            return
        write_atomic(folder / "metrics.json", json.dumps(record, indent=1, sort_keys=True, allow_nan=False))


def _prepare(task: RunTask) -> _Prepared:
    """Open the training data and the initial state of a run.

    Raises:
        UserError: The text, the tokenizer or the parent cannot be used.
    """
    import numpy as np
    from omegaconf import OmegaConf

    from tinylm_ablate.data.corpus_summary import MANY_PASSES, passes_by_group, passes_in_words
    from tinylm_ablate.init.initial import initial_decoder
    from tinylm_ablate.init.random import matrix_std
    from tinylm_ablate.measure.subject import Subject
    from tinylm_ablate.rounds.next import continued
    from tinylm_ablate.train.member import Member, Start

    settled, watch, folder = task.run, task.watch, task.run.folder
    described = cut(json.loads(settled.to_json()))
    write_atomic(folder / "settled.json", json.dumps(described, indent=1, ensure_ascii=False))
    write_atomic(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(described["config"])))
    about = {"text": settled.text, "vocabulary": settled.vocabulary, "cell": task.cell} | _provenance(folder)
    write_atomic(folder / "provenance.json", json.dumps(about, indent=2))

    missing = task.missing_points()
    _back_to_before(folder, missing)
    subject = Subject(settled)
    tokens = subject.shards.tokens("train") if settled.steps else np.empty(0, np.uint16)
    rounds: list[Record] = []
    if settled.previous is None:
        decoder, origin = initial_decoder(settled, subject.vocabulary)
        initial_std, start = matrix_std(decoder), Start()
    else:
        decoder, origin, initial_std, start, rounds = continued(settled, tokens)
    most = 0.0
    if settled.steps:
        shards = subject.shards
        counted = passes_by_group(settled.config.data, shards.count("train"), shards.summary["groups"], settled.tokens)
        most = max(counted.values())
        if most > 1:
            many = "; text repeated more than four times is worth less" if most > MANY_PASSES else ""
            said = f"{passes_in_words(counted)} passes over the training text{many}"
            print(f"note: {settled.tokens:,} tokens are {said}", file=sys.stderr)

    def on_rows(rows: list[dict[str, float]]) -> bool:
        return watch is not None and any(watch(row) for row in rows)

    return _Prepared(
        Member(decoder, tokens, settled, folder, on_rows, start, frozenset(missing), _on_point(subject)),
        subject, about, origin, initial_std, rounds, most,
    )  # fmt: skip


def _back_to_before(folder: Path, missing: Sequence[int]) -> None:
    """Remove checkpoints that are past the first of the missing points."""
    found = (folder / "checkpoint").glob("step-*")
    late = [path for path in found if missing and int(path.name.removeprefix("step-")) >= missing[0]]
    if late:
        print(f"note: {folder} resumes from before step {missing[0]:,}, whose model is now requested", file=sys.stderr)
    for path in late:
        shutil.rmtree(path)


def _on_point(subject: Subject) -> OnPoint:
    """Return a function that stores a run's intermediate models, and its state if it is in ``train.keep_checkpoints``."""
    from tinylm_ablate.formats.huggingface import Model, save
    from tinylm_ablate.train import checkpoint

    run, kept = subject.run, set(points.kept(subject.run))
    vocabulary, context = subject.vocabulary, run.config.train.context_length

    def keep(weights: Mapping[str, Tensor], state: Checkpoint) -> None:
        folder = point_folder(run, state.step)
        if state.step in kept:
            checkpoint.save(folder / "checkpoint", state)
        state_dict = {name: value.detach().float().cpu() for name, value in weights.items()}
        tokenizer = vocabulary.folder / "tokenizer.json"
        save(folder / "model", Model(state_dict, run.shape, tokenizer, context, vocabulary.end_of_text))

    return keep


def _provenance(folder: Path) -> Record:
    """Return the provenance of a run, including earlier ones if it resumed elsewhere or with other packages."""
    now = provenance()
    if not _has_checkpoint(folder):
        return now
    try:
        before = json.loads((folder / "provenance.json").read_text())
        then, found = _versions(before), _versions(now)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return now | {"earlier": [None]}
    earlier = before.pop("earlier", [])
    names = [name for name in found | then if found.get(name) != then.get(name)]
    changed = [f"{name} {found.get(name)} (previously {then.get(name)})" for name in names]
    if changed:
        print(f"note: {folder} resumes with {', '.join(changed)}; provenance.json lists both", file=sys.stderr)
        earlier = [*earlier, before]
    return now | ({"earlier": earlier} if earlier else {})


def _versions(provenance: Record) -> dict[str, Any]:
    """Return the part of a provenance that can change results."""
    own = {key: provenance.get(key) for key in ("tinylm_ablate", "commit", "difference", "python")}
    packages: dict[str, Any] = provenance["packages"]
    return own | {f"machine's {key}": value for key, value in provenance["machine"].items()} | packages


def _train_together(tasks: Sequence[RunTask]) -> list[Exception | None]:
    """Train runs, several of them as one program; returns the exception that ended each, or None on success."""
    from tinylm_ablate.train.stack import train_stack

    progress.configure(tasks[0].run.config.progress)
    ended: dict[str, Exception] = {}
    prepared: dict[str, _Prepared] = {}
    for task in tasks:
        try:
            prepared[task.key] = _prepare(task)
        except Exception as error:
            ended[task.key] = error
    for task in tasks:  # a suspended worker may be late, and training would begin by rewriting the curve
        if task.done() and prepared.pop(task.key, None) is not None:
            ended[task.key] = Busy(f"{task.name}: another worker has done it meanwhile")
    train = {key: one for key, one in prepared.items() if one.member.settled.steps}
    for key in prepared.keys() - train.keys():
        prepared[key].finish(None)
    outcomes = train_stack([one.member for one in train.values()]) if train else []
    for (key, one), outcome in zip(train.items(), outcomes, strict=True):
        if isinstance(outcome, Exception):
            ended[key] = outcome
        else:
            one.finish(outcome)
    return [ended.get(task.key) for task in tasks]


def _training_metrics(settled: Settled, trained: Trained) -> dict[str, float]:
    """Return the metrics of a run's training."""
    from tinylm_ablate.arch.costs import flops_6n_attention, flops_utilisation

    train = settled.config.train
    accelerator = provenance()["machine"]["accelerator"] if pick_device(train.device) == "cuda" else None
    flops = flops_6n_attention(settled.shape, train.context_length)
    utilisation = flops_utilisation(flops, trained.tokens_per_second, accelerator)
    return {
        "train/loss": trained.loss,
        "train/seconds": trained.seconds,
        "train/tokens_per_second": trained.tokens_per_second,
        "train/skipped_steps": trained.skipped,
    } | ({} if utilisation is None else {"train/model_flops_utilisation": utilisation})


def _record(
    settled: Settled, vocabulary: Record, corpus: Record, origin: Record, trained: Trained | None, about: Record
) -> Record:
    """Result of training."""
    from tinylm_ablate.arch.shapes import embedding_head_share, flops_per_token, parameters

    shape = settled.shape
    return {
        "schema": RECORD_SCHEMA,
        "identity": settled.identity,
        "seed": settled.config.seed,
        "config": cut(dataclasses.asdict(settled.config)),
        "shape": dataclasses.asdict(shape),
        "parameters": parameters(shape),
        "embedding_head_share": embedding_head_share(shape),
        "flops_per_token": flops_per_token(shape, settled.config.train.context_length),
        "tokens": settled.tokens,
        "steps": settled.steps,
        "learning_rate": settled.learning_rate,
        "weight_decay": settled.weight_decay,
        "init_std": settled.init_std,
        "precision": settled.precision,
        "tokenizer": vocabulary,
        "data": corpus,
        "init": origin,
        "metrics": {} if trained is None else _training_metrics(settled, trained),
        "provenance": about,
    }
