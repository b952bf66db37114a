"""Training of one run on one or several devices: Lightning runs the steps; data order, curve and checkpoints are ours.

Lightning's own resume loses or repeats batches within an epoch, so a run that resumes starts a new ``Trainer`` for the
remaining steps, with weights and optimizer restored and the loader set to the first batch that has not been seen.
"""

from __future__ import annotations

import functools
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.errors import Interrupted, Pruned
from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.optimizer.optimizers import final_weights, optimizer_state, restore_optimizer
from tinylm_ablate.signals import Stop
from tinylm_ablate.train import checkpoint
from tinylm_ablate.train.batch_order import Order
from tinylm_ablate.train.compile import compiled, worth_compiling
from tinylm_ablate.train.devices import Environment, Share, agreed, share_weights, strategy, team, whole
from tinylm_ablate.train.member import Checkpoint, Member, OnPoint, OnRows, Start, Trained, nothing
from tinylm_ablate.train.module import TrainingModule
from tinylm_ablate.train.record import Recorder

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled


class MicroBatches(IterableDataset[Tensor]):
    """Micro batches (B, T + 1) of token ids for the steps from ``first`` on, in the order of the run.

    Args:
        order: The run's batches.
        first: Step to begin with.
        share: This device's share of each step's micro batches.
    """

    def __init__(self, order: Order, first: int, share: Share) -> None:
        self.order, self.first, self.share = order, first, share

    def __iter__(self) -> Iterator[Tensor]:
        share = self.share
        for step in range(self.first, self.order.settled.steps):
            parts = np.split(self.order.positions(step), share.accumulation * share.devices)
            for positions in parts[share.rank :: share.devices]:
                yield torch.from_numpy(self.order.batches.inputs(positions))


class Progress(lightning.Callback):
    """Callback at the end of each optimizer step: curve, events, progress bar, checkpoints and signals."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.stop = recorder, Stop()
        self._clock = self._saved = time.monotonic()
        self._bar: Any = None

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Install signal handlers (after Lightning has set its own) and draw the bar."""
        del module
        for optimizer in trainer.optimizers:
            # Lightning moves restored state to the device except for "step", which fused AdamW requires on the same device.
            for parameter, values in optimizer.state.items():
                if isinstance(values.get("step"), Tensor):
                    values["step"] = values["step"].to(parameter.device)
        self.stop.watch()
        settled = self.recorder.settled
        self._bar = progress.bar(total=settled.tokens, description="train", unit="tok")
        self._bar.update(self.recorder.step * settled.config.train.batch_tokens)
        self._clock = self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record a finished optimizer step."""
        del outputs, batch
        assert isinstance(module, TrainingModule)
        if (batch_idx + 1) % module.share.accumulation:
            return
        recorder, train, now = self.recorder, self.recorder.settled.config.train, time.monotonic()
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        recorder.take(module.losses, module.gradient_norm, rate, now - self._clock)
        self._clock = now
        self._bar.update(train.batch_tokens)
        self._bar.set_postfix_str(f"loss {module.losses[-1]:.3f}")
        stop = bool(self.stop.signum or recorder.pruned)
        last = recorder.step == recorder.settled.steps
        save = stop or last or now - self._saved > 60 * train.checkpoint_minutes
        point = recorder.step in recorder.member.points
        stop, gather = agreed(stop, save or point)
        if gather:
            state = _checkpoint(module, trainer.optimizers[0], recorder)
            if point:  # before the checkpoint, so that a run that resumes has all earlier points
                averages = {} if module.sharded else final_weights(trainer.optimizers[0], module.decoder)
                recorder.member.on_point({**state.weights, **averages}, state)
            if save:
                checkpoint.save(recorder.folder / "checkpoint", state)
                self._saved = time.monotonic()
            self._clock = time.monotonic()
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Restore the signal handlers."""
        del trainer, module
        self.close()

    def on_exception(self, trainer: lightning.Trainer, module: lightning.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers before Lightning restores its own; set again afterwards, they would keep the trainer."""
        del trainer, module, exception
        self.close()

    def close(self) -> None:
        """Restore the signal handlers and remove the bar; safe to call twice."""
        self.stop.close()
        if self._bar is not None:
            self._bar.close()


class Follower(lightning.Callback):
    """Callback of the other devices at the end of each optimizer step, which follows the first process."""

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Leave signals to the first process (after Lightning has set its own handlers)."""
        import signal

        del trainer, module
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take part in a checkpoint, and stop if the first process stops."""
        del outputs, batch
        assert isinstance(module, TrainingModule)
        if (batch_idx + 1) % module.share.accumulation:
            return
        stop, save = agreed(False, False)
        if save and module.sharded:
            _tensors(module, trainer.optimizers[0])
        if stop:
            trainer.should_stop = True


def _tensors(
    module: TrainingModule, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, float]]:
    """Return the complete weights and optimizer state; with sharded weights, every process must call this."""
    kept, counters = optimizer_state(optimizer, module.decoder)
    weights = {name: whole(value) for name, value in module.decoder.state_dict().items()}
    return weights, {kind: {name: whole(value) for name, value in values.items()} for kind, values in kept.items()}, counters


def _checkpoint(module: TrainingModule, optimizer: torch.optim.Optimizer, recorder: Recorder) -> Checkpoint:
    return Checkpoint(recorder.step, *_tensors(module, optimizer), recorder.state(), recorder.records())


def fit(
    decoder: Decoder,
    tokens: np.ndarray,
    settled: Settled,
    folder: Path,
    on_rows: OnRows,
    start: Start | None = None,
    points: frozenset[int] = frozenset(),
    on_point: OnPoint = nothing,
) -> Trained:
    """Train ``decoder`` in place for the last round of the run, resuming from its newest checkpoint.

    Args:
        decoder, tokens, settled, folder, on_rows, start, points, on_point: See ``member.Member``.

    Raises:
        Interrupted: SIGTERM or Ctrl-C; the state was saved.
        Pruned: ``on_rows`` pruned the run; the state was saved.
        RunFailed: A loss or gradient was not finite; the weights were not changed.
    """
    member = Member(decoder, tokens, settled, folder, on_rows, start or Start(), points, on_point)
    restored = checkpoint.restore(folder / "checkpoint")
    order = Order(tokens, settled, member.start.order)
    recorder = Recorder(member, order, restored)
    callback = Progress(recorder)
    module, optimizer = _begin(member, restored)
    if module.first_step < settled.steps:
        with team(settled, _follow, settled, folder, member.start, _reopened(tokens)):
            try:
                _run(module, optimizer, callback, order)
            except SystemExit as error:  # Lightning's answer to KeyboardInterrupt, whichever raised it
                if isinstance(error.__context__, KeyboardInterrupt):
                    raise error.__context__ from None
                raise
            finally:
                callback.close()
    if callback.stop.signum:
        raise Interrupted(
            callback.stop.signum,
            f"stopped at step {recorder.step} of {settled.steps}; saved in {folder}. The same command resumes from there",
        )
    if recorder.pruned:
        raise Pruned(f"pruned at step {recorder.step} of {settled.steps}; saved in {folder}")
    if module.sharded and (saved := checkpoint.restore(folder / "checkpoint")):  # it has the complete weights
        decoder.load_state_dict(saved.weights)
    result = recorder.result()
    if not module.sharded:
        decoder.load_state_dict(final_weights(optimizer, decoder))
    decoder.checkpointing, decoder.stream = False, None
    decoder.float()
    return result


def _follow(rank: int, settled: Settled, folder: Path, start: Start, tokens: Callable[[], np.ndarray]) -> None:
    """Run ``fit`` in the process of another device."""
    progress.configure("off")
    member = Member(Decoder(settled.shape), tokens(), settled, folder, lambda _: None, start)
    module, optimizer = _begin(member, checkpoint.restore(folder / "checkpoint"), rank)
    _run(module, optimizer, Follower(), Order(member.tokens, settled, start.order))


def _reopened(tokens: np.ndarray) -> Callable[[], np.ndarray]:
    """Return the tokens in a form to send to another process, which reopens a file."""
    if isinstance(tokens, np.memmap) and tokens.nbytes == Path(str(tokens.filename)).stat().st_size:
        return functools.partial(np.memmap, tokens.filename, tokens.dtype, "r")
    return functools.partial(np.asarray, np.asarray(tokens))


def _begin(member: Member, restored: Checkpoint | None, rank: int = 0) -> tuple[TrainingModule, torch.optim.Optimizer]:
    """Restore the module, with its first step, and the optimizer from the checkpoint."""
    decoder, settled = member.decoder, member.settled
    train = settled.config.train
    torch.set_num_threads(thread_count(train.threads, train.devices))
    if settled.precision == "bf16-true":
        decoder.to(torch.bfloat16)
        decoder.stream = torch.float32
    decoder.checkpointing = train.recompute
    module = TrainingModule(decoder, settled, rank)
    optimizer = module.configure_optimizers()
    if opening := checkpoint.opening(member, restored):
        decoder.load_state_dict(opening.weights)
        restore_optimizer(optimizer, decoder, opening.kept, opening.counters)
    module.first_step = settled.rounds.start if restored is None else restored.step
    return module, optimizer


def _run(module: TrainingModule, optimizer: torch.optim.Optimizer, callback: lightning.Callback, order: Order) -> None:
    settled = module.settled
    train = settled.config.train
    device = pick_device(train.device)
    loader = DataLoader(MicroBatches(order, module.first_step, module.share), batch_size=None)
    share_weights(module.decoder)
    training_flops = flops_per_token(settled.shape, train.context_length)["training"] * settled.tokens
    module.restored_optimizer = optimizer
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Lightning recommends more workers and warns about datasets without a length; both are intended.
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
