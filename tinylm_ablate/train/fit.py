"""One fit: Lightning drives the steps; the order of the data, the curve and the checkpoints are ours.

Lightning's own resume loses or repeats batches in mid-epoch, so a run that goes on starts a new ``Trainer`` for the steps that
are left, with weights and optimizer restored and the loader set to the first batch that has not been seen.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import shutil
import signal
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.errors import Interrupted
from tinylm_ablate.settle import Settled
from tinylm_ablate.train import checkpoint
from tinylm_ablate.train.module import TrainingModule

Row = dict[str, float]

#: From about ten seconds of training on two cores, compiled layers are done sooner (docs/LAB.md).
_COMPILE_FROM_FLOPS = 5e11


@dataclass(frozen=True)
class Trained:
    """What a fit came to.

    Attributes:
        loss: Mean training loss of the last twentieth of the steps, nats per token.
        seconds: Time in training, over all sessions of the run.
        tokens_per_second: Tokens of the run over that time.
    """

    loss: float
    seconds: float
    tokens_per_second: float


class MicroBatches(IterableDataset[Tensor]):
    """Micro batches (B, T + 1) of token ids from the one after ``first``, in the order of the run."""

    def __init__(self, batches: Batches, micro_batch: int, first: int, last: int) -> None:
        self.batches, self.micro_batch, self.first, self.last = batches, micro_batch, first, last

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(self.first, self.last):
            positions = np.arange(index * self.micro_batch, (index + 1) * self.micro_batch, dtype=np.int64)
            yield torch.from_numpy(self.batches.inputs(positions))


class Recorder(lightning.Callback):
    """Curve, progress bar, checkpoints and the answer to a signal, at the end of each optimizer step."""

    def __init__(self, settled: Settled, folder: Path, state: dict[str, Any], on_rows: Callable[[list[Row]], None]) -> None:
        self.settled, self.folder, self.on_rows = settled, folder, on_rows
        self.seconds: float = state.get("seconds", 0.0)
        self.pending: list[float] = state.get("pending", [])
        self.tail: list[float] = state.get("tail", [])
        self.signum = 0
        self._micro: list[float] = []
        self._clock = self._saved = time.monotonic()
        self._marked = self.seconds
        self._marked_tokens = 0
        self._previous: dict[int, Any] = {}
        self._bar: Any = None

    def state(self) -> dict[str, Any]:
        """What the next session of this run needs to continue the curve."""
        return {"seconds": self.seconds, "pending": self.pending, "tail": self.tail}

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Take over the signals (after Lightning has set its own) and draw the bar."""
        for optimizer in trainer.optimizers:
            # Lightning moves a restored state to the device but for "step", which fused AdamW wants beside the weights.
            for parameter, values in optimizer.state.items():
                if isinstance(values.get("step"), Tensor):
                    values["step"] = values["step"].to(parameter.device)
        assert isinstance(module, TrainingModule)
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._previous[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: whoever is there handles signals
                break
        batch_tokens = self.settled.config.train.batch_tokens
        self._bar = progress.bar(total=self.settled.tokens, description="train", unit="tok")
        self._bar.update(module.step * batch_tokens)
        self._marked_tokens = module.step * batch_tokens
        self._clock = self._saved = time.monotonic()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.signum:
            raise KeyboardInterrupt  # asked twice: the last checkpoint will have to do
        self.signum = number

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a finished optimizer step."""
        del outputs, batch
        assert isinstance(module, TrainingModule)
        if (batch_idx + 1) % self.settled.accumulation:
            return
        step, steps, train = module.step, self.settled.steps, self.settled.config.train
        loss = math.fsum(float(value) for value in module.step_losses) / len(module.step_losses)
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        self.pending.append(loss)
        self.tail = [*self.tail, loss][-max(1, steps // 20) :]
        if step % train.log_every == 0 or step == steps:
            self._log(module, step)
        self._bar.update(train.batch_tokens)
        if step == steps or self.signum or now - self._saved > 60 * train.checkpoint_minutes:
            self._save(trainer, module)
        if self.signum:
            trainer.should_stop = True

    def _log(self, module: TrainingModule, step: int) -> None:
        batch_tokens = self.settled.config.train.batch_tokens
        tokens = step * batch_tokens
        rate = (tokens - self._marked_tokens) / max(1e-9, self.seconds - self._marked)
        self._marked, self._marked_tokens = self.seconds, tokens
        row: Row = {
            "step": step, "tokens": tokens, "loss": math.fsum(self.pending) / len(self.pending),
            "learning_rate": module.trainer.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": module.gradient_norm, "tokens_per_second": rate, "seconds": self.seconds,
        }  # fmt: skip
        self.pending = []
        self._bar.set_postfix_str(f"loss {row['loss']:.3f}")
        with (self.folder / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.on_rows([row])

    def _save(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        checkpoint.save(self.folder / "checkpoint", module.step, module.decoder, trainer.optimizers[0], self.state())
        self._saved = self._clock = time.monotonic()

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Give the signals back."""
        del trainer, module
        self.close()

    def close(self) -> None:
        """Give the signals back and remove the bar; safe to call twice."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        if self._bar is not None:
            self._bar.close()


def fit(decoder: Decoder, tokens: np.ndarray, settled: Settled, folder: Path, on_rows: Callable[[list[Row]], None]) -> Trained:
    """Train ``decoder`` in place for the run's budget, going on from its newest checkpoint.

    Args:
        decoder: Initial weights; they are replaced where a checkpoint exists.
        tokens: The training text as token ids, (n,).
        settled: The run.
        folder: The run's folder; the curve and the checkpoints go there.
        on_rows: Called with every new row of the curve.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state was saved.
        RunFailed: A loss or gradient was not finite; the weights were left as they were.
    """
    train = settled.config.train
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads((os.cpu_count() or 1) if isinstance(train.threads, str) else train.threads)
    module = TrainingModule(decoder, settled)
    restored = checkpoint.restore(folder / "checkpoint", decoder, optimizer := module.configure_optimizers())
    module.first_step, state = restored or (0, {})
    _cut_curve(folder / "curve.jsonl", module.first_step)
    recorder = Recorder(settled, folder, state, on_rows)
    if module.first_step < settled.steps:
        _run(module, optimizer, recorder, tokens, settled)
    if recorder.signum:
        raise Interrupted(
            recorder.signum,
            f"stopped at step {module.step} of {settled.steps}; saved in {folder}. The same command goes on from there",
        )
    loss = math.fsum(recorder.tail) / max(1, len(recorder.tail))
    return Trained(loss, recorder.seconds, settled.tokens / max(recorder.seconds, 1e-9))


def _run(
    module: TrainingModule, optimizer: torch.optim.Optimizer, recorder: Recorder, tokens: np.ndarray, settled: Settled
) -> None:
    train = settled.config.train
    batches = Batches(tokens, train.context_length, settled.config.seed, round=0)
    first, last = module.first_step * settled.accumulation, settled.steps * settled.accumulation
    loader = DataLoader(MicroBatches(batches, settled.micro_batch, first, last), batch_size=None)
    module.restored_optimizer = optimizer
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lightning advises more workers and warns of datasets without a length; both are meant to be so.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator={"cuda": "gpu"}.get(train.device, train.device),
            devices=1,
            precision="bf16-mixed" if settled.precision == "bf16" else "32-true",
            max_steps=settled.steps - module.first_step,
            max_epochs=-1,
            accumulate_grad_batches=settled.accumulation,
            callbacks=[recorder],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            plugins=[LightningEnvironment()],  # one process a run: what a cluster's scheduler set for others is not for us
        )
        with compiled(module.decoder, _worth_compiling(settled)):
            try:
                trainer.fit(module, loader)
            except SystemExit:  # what Lightning makes of Ctrl-C
                if recorder.signum:
                    raise KeyboardInterrupt from None
                raise
            finally:
                recorder.close()


def _worth_compiling(settled: Settled) -> bool:
    """Whether a run is long enough to win back the time that compiling takes."""
    wanted = settled.config.train.compile
    if isinstance(wanted, bool):
        return wanted
    compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++"))
    flops = flops_per_token(settled.shape, settled.config.train.context_length)["training"] * settled.tokens
    headers = (Path(sysconfig.get_path("include")) / "Python.h").is_file()  # what a compiled layer includes
    return compiler and headers and flops > _COMPILE_FROM_FLOPS


@contextlib.contextmanager
def compiled(decoder: Decoder, wanted: bool) -> Iterator[None]:
    """Layers are compiled within the block: one piece of code for all of them, since they are alike, for the batch's shape.

    Afterwards they are plain again, so that the many shapes of an evaluation do not compile anew each.
    """
    if not wanted:
        yield
        return
    for layer in decoder.layers:
        layer.compile(dynamic=False)
    try:
        yield
    finally:
        for layer in decoder.layers:
            layer._compiled_call_impl = None


def _cut_curve(path: Path, step: int) -> None:
    """Drop the rows after ``step``: they were written by a session whose later steps were lost."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break  # a line cut short by a power cut
        if row["step"] <= step:
            kept.append(line + "\n")
    path.write_text("".join(kept))
