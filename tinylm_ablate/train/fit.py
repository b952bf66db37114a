"""One fit: Lightning drives the steps; the order of the data, the curve and the checkpoints are ours.

Lightning's own resume loses or repeats batches in mid-epoch, so a run that goes on starts a new ``Trainer`` for the steps that
are left, with weights and optimizer restored and the loader set to the first batch that has not been seen.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import signal
import statistics
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.training import training_batches
from tinylm_ablate.errors import Interrupted, Pruned, RunFailed
from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.optimizer.build import use_averages
from tinylm_ablate.settled import Settled
from tinylm_ablate.train import checkpoint
from tinylm_ablate.train.compile import compiled, worth_compiling
from tinylm_ablate.train.devices import Environment, Share, agreed, share_weights, strategy, team
from tinylm_ablate.train.module import TrainingModule

Row = dict[str, float]

#: Takes new rows of the curve; True gives the run up.
OnRows = Callable[[list[Row]], bool | None]

#: Losses that a spike is told against, and the fewest that tell anything.
_RECENT, _LEAST_RECENT = 50, 20


@dataclass(frozen=True)
class Start:
    """Where a fit begins that goes on from another run's rounds.

    Attributes:
        seconds: Time that was spent in training before.
        order: Ids of the batches of this round in their order, (steps of the round,); None is the order of the first round.
        checkpoints: Folder of a checkpoint at that point, whose state of the optimizer is taken over; None starts a new one.
    """

    seconds: float = 0.0
    order: np.ndarray | None = None
    checkpoints: Path | None = None


@dataclass(frozen=True)
class Trained:
    """What a fit came to.

    Attributes:
        loss: Mean training loss of the last twentieth of the steps, nats per token.
        seconds: Time in training, over all sessions of the run.
        tokens_per_second: Tokens of the run over that time.
        skipped: Steps that were skipped, since their loss or gradient was not finite.
    """

    loss: float
    seconds: float
    tokens_per_second: float
    skipped: int


class MicroBatches(IterableDataset[Tensor]):
    """Micro batches (B, T + 1) of token ids of the steps from ``first`` on, in the order of the run.

    Args:
        batches: The text's windows in the order of the first round.
        settled: The run.
        first: Step to begin with.
        order: Ids of the batches of the last round, or None for the first round's own.
        share: The part of each step's micro batches that is wanted.
    """

    def __init__(self, batches: Batches, settled: Settled, first: int, order: np.ndarray | None, share: Share) -> None:
        self.batches, self.settled, self.first, self.order, self.share = batches, settled, first, order, share

    def batch_id(self, step: int) -> int:
        """The batch of the first round that step ``step`` (from 0) trains on."""
        return step if self.order is None else int(self.order[step - self.settled.rounds.start])

    def positions(self, batch: int) -> np.ndarray:
        """Positions of a batch's sequences, (sequences,)."""
        sequences = self.settled.accumulation * self.settled.micro_batch
        return np.arange(batch * sequences, (batch + 1) * sequences, dtype=np.int64)

    def __iter__(self) -> Iterator[Tensor]:
        share = self.share
        for step in range(self.first, self.settled.steps):
            parts = np.split(self.positions(self.batch_id(step)), share.accumulation * share.devices)
            for positions in parts[share.rank :: share.devices]:
                yield torch.from_numpy(self.batches.inputs(positions))


class Recorder(lightning.Callback):
    """Curve, events, progress bar, checkpoints and the answer to a signal, at the end of each optimizer step."""

    def __init__(self, settled: Settled, folder: Path, state: dict[str, Any], data: MicroBatches, on_rows: OnRows) -> None:
        self.settled, self.folder, self.data, self.on_rows = settled, folder, data, on_rows
        self.seconds: float = state.get("seconds", 0.0)
        self.pending: list[float] = state.get("pending", [])
        self.tail: list[float] = state.get("tail", [])
        self.recent: deque[float] = deque(state.get("recent", []), maxlen=_RECENT)
        self.skipped: int = state.get("skipped", 0)
        self.signum = 0
        self.given_up = False
        self._clock = self._saved = time.monotonic()
        self._marked = self.seconds
        self._marked_tokens = 0
        self._previous: dict[int, Any] = {}
        self._bar: Any = None

    def state(self) -> dict[str, Any]:
        """What the next session of this run needs to continue the curve."""
        return {
            "seconds": self.seconds, "pending": self.pending, "tail": self.tail, "recent": list(self.recent),
            "skipped": self.skipped,
        }  # fmt: skip

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
        if (batch_idx + 1) % module.share.accumulation:
            return
        step, steps, train = module.step, self.settled.steps, self.settled.config.train
        loss = math.fsum(module.losses) / len(module.losses)
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        self._record(module, step, loss)
        if step % train.log_every == 0 or step == steps:
            self._log(module, step)
        self._bar.update(train.batch_tokens)
        stop = bool(self.signum or self.given_up)
        stop, save = agreed(stop, stop or step == steps or now - self._saved > 60 * train.checkpoint_minutes)
        if save:
            self._save(trainer, module)
        if stop:
            trainer.should_stop = True

    def _record(self, module: TrainingModule, step: int, loss: float) -> None:
        """Take a step's loss into the curve; tell a spike, and a step that was skipped, with its batch."""
        if module.skipped:
            self.skipped += 1
            self._tell("skipped", step, {"loss": str(loss), "gradient_norm": str(module.gradient_norm)})
            return
        if len(self.recent) >= _LEAST_RECENT:
            mean, spread = statistics.fmean(self.recent), statistics.stdev(self.recent)
            if loss > mean + self.settled.config.train.spike_deviations * spread:
                self._tell("spike", step, {"loss": loss, "recent_mean": mean, "recent_std": spread})
        self.recent.append(loss)
        self.pending.append(loss)
        self.tail = [*self.tail, loss][-max(1, self.settled.steps // 20) :]

    def _tell(self, kind: str, step: int, values: dict[str, Any]) -> None:
        batch = self.data.batch_id(step - 1)
        event = {"step": step, "event": kind, **values, "batch": batch}
        event["sequences"] = self.data.batches.windows(self.data.positions(batch)).tolist()
        with (self.folder / "events.jsonl").open("a") as stream:
            stream.write(json.dumps(event) + "\n")

    def _log(self, module: TrainingModule, step: int) -> None:
        if not self.pending:  # all steps since the last row were skipped
            return
        batch_tokens = self.settled.config.train.batch_tokens
        tokens = step * batch_tokens
        rate = (tokens - self._marked_tokens) / max(1e-9, self.seconds - self._marked)
        self._marked, self._marked_tokens = self.seconds, tokens
        row: Row = {
            "step": step, "tokens": tokens, "loss": math.fsum(self.pending) / len(self.pending),
            "learning_rate": module.trainer.optimizers[0].param_groups[0]["lr"],
            "gradient_norm": module.last_norm, "tokens_per_second": rate, "seconds": self.seconds,
        }  # fmt: skip
        self.pending = []
        self._bar.set_postfix_str(f"loss {row['loss']:.3f}")
        with (self.folder / "curve.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        self.given_up = bool(self.on_rows([row]))

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


class Follower(lightning.Callback):
    """What the processes of the other devices do at the end of each optimizer step: as the first one says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Leave the signals to the first process (after Lightning has set its own)."""
        del trainer, module
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take part in a checkpoint, and stop where the first process stops."""
        del outputs, batch
        assert isinstance(module, TrainingModule)
        if (batch_idx + 1) % module.share.accumulation:
            return
        stop, save = agreed(False, False)
        if save and module.sharded:
            checkpoint.save(self.folder / "checkpoint", module.step, module.decoder, trainer.optimizers[0], {}, write=False)
        if stop:
            trainer.should_stop = True


def fit(
    decoder: Decoder,
    tokens: np.ndarray,
    settled: Settled,
    folder: Path,
    on_rows: OnRows,
    start: Start | None = None,
) -> Trained:
    """Train ``decoder`` in place for the last round of the run, going on from its newest checkpoint.

    Args:
        decoder: The weights that the round begins with; they are replaced where a checkpoint exists.
        tokens: The training text as token ids, (n,).
        settled: The run.
        folder: The run's folder; the curve, ``events.jsonl`` (loss spikes and skipped steps) and the checkpoints go there.
        on_rows: Called with every new row of the curve; True gives the run up.
        start: What earlier rounds left; None for the first.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state was saved.
        Pruned: ``on_rows`` gave the run up; the state was saved.
        RunFailed: A loss or gradient was not finite; the weights were left as they were.
    """
    start = start or Start()
    folder.mkdir(parents=True, exist_ok=True)
    module, optimizer, state = _begin(decoder, settled, folder, start)
    for name in ("curve.jsonl", "events.jsonl"):
        _cut_lines(folder / name, module.first_step)
    data = _data(module, tokens, start)
    recorder = Recorder(settled, folder, state, data, on_rows)
    if module.first_step < settled.steps:
        with team(settled, _follow, settled, folder, start, _reopened(tokens)):
            try:
                _run(module, optimizer, recorder, data)
            except SystemExit:  # what Lightning makes of Ctrl-C
                if recorder.signum:
                    raise KeyboardInterrupt from None
                raise
            finally:
                recorder.close()
    if recorder.signum:
        raise Interrupted(
            recorder.signum,
            f"stopped at step {module.step} of {settled.steps}; saved in {folder}. The same command goes on from there",
        )
    if recorder.given_up:
        raise Pruned(f"given up at step {module.step} of {settled.steps}; saved in {folder}")
    if module.sharded:  # the whole weights are in the last checkpoint
        checkpoint.restore(folder / "checkpoint", decoder, optimizer)
    if not recorder.tail:
        raise RunFailed(
            f"{recorder.skipped} steps were skipped, and none of the last was finite; see {folder / 'events.jsonl'}"
        )
    use_averages(optimizer)
    decoder.checkpointing, decoder.stream = False, None
    decoder.float()
    loss = math.fsum(recorder.tail) / len(recorder.tail)
    return Trained(loss, recorder.seconds, settled.tokens / max(recorder.seconds, 1e-9), recorder.skipped)


def _follow(rank: int, settled: Settled, folder: Path, start: Start, tokens: Callable[[], np.ndarray]) -> None:
    """``fit`` in the process of another device."""
    progress.configure("off")
    module, optimizer, _ = _begin(Decoder(settled.shape), settled, folder, start, rank)
    _run(module, optimizer, Follower(folder), _data(module, tokens(), start))


def _reopened(tokens: np.ndarray) -> Callable[[], np.ndarray]:
    """What gives the tokens in another process: a file is opened there again, and not sent."""
    if isinstance(tokens, np.memmap) and tokens.nbytes == Path(str(tokens.filename)).stat().st_size:
        return functools.partial(np.memmap, tokens.filename, tokens.dtype, "r")
    return functools.partial(np.asarray, np.asarray(tokens))


def _begin(
    decoder: Decoder, settled: Settled, folder: Path, start: Start, rank: int = 0
) -> tuple[TrainingModule, torch.optim.Optimizer, dict[str, Any]]:
    """The module with its first step set, the optimizer, and the state of the recorder, from the newest checkpoint."""
    train = settled.config.train
    torch.set_num_threads(thread_count(train.threads, train.devices))
    if settled.precision == "bf16-true":
        decoder.to(torch.bfloat16)
        decoder.stream = torch.float32
    decoder.checkpointing = train.recompute
    module = TrainingModule(decoder, settled, rank)
    restored = checkpoint.restore(folder / "checkpoint", decoder, optimizer := module.configure_optimizers())
    if restored is None and start.checkpoints is not None:
        before = checkpoint.restore(start.checkpoints, decoder, optimizer)
        if before is None:
            raise RunFailed(f"{start.checkpoints}: no sound checkpoint to go on from; remove its run, and it is done again")
    module.first_step, state = restored or (settled.rounds.start, {"seconds": start.seconds})
    return module, optimizer, state


def _data(module: TrainingModule, tokens: np.ndarray, start: Start) -> MicroBatches:
    settled = module.settled
    batches = training_batches(tokens, settled.config, settled.shards)
    return MicroBatches(batches, settled, module.first_step, start.order, module.share)


def _run(module: TrainingModule, optimizer: torch.optim.Optimizer, callback: lightning.Callback, data: MicroBatches) -> None:
    settled = module.settled
    train = settled.config.train
    device = pick_device(train.device)
    loader = DataLoader(data, batch_size=None)
    share_weights(module.decoder)
    training_flops = flops_per_token(settled.shape, train.context_length)["training"] * settled.tokens
    module.restored_optimizer = optimizer
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lightning advises more workers and warns of datasets without a length; both are meant to be so.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = lightning.Trainer(
            accelerator="gpu" if device == "cuda" else device,
            devices=train.devices,
            strategy=strategy(settled),
            precision="bf16-mixed" if settled.multiplies_bf16 else "32-true",
            max_steps=settled.steps - module.first_step,
            max_epochs=-1,
            accumulate_grad_batches=module.share.accumulation,
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            plugins=[Environment(module.share.rank)],
        )
        with compiled(module.decoder, not module.sharded and worth_compiling(settled, training_flops)):
            trainer.fit(module, loader)


def _cut_lines(path: Path, step: int) -> None:
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
