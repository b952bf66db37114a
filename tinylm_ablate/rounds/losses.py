"""Loss of every training batch under a frozen model: one forward pass over the training data, stored with the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.arch.stacking import stacked
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.once import locked
from tinylm_ablate.data.training import training_batches
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.rounds import LOSSES, UNFINISHED_LOSSES
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.compile import compiled, worth_compiling

Float64s = npt.NDArray[np.float64]

#: Batches per write of their losses, so that a kill loses few.
_TOGETHER = 16


@dataclass(frozen=True)
class Passed:
    """A run whose batch losses are measured.

    Attributes:
        settled: The run.
        decoder: The frozen model.
        tokens: The training text as token ids, (n,).
        folder: The run's folder.
    """

    settled: Settled
    decoder: Decoder
    tokens: npt.NDArray[Any]
    folder: Path

    @property
    def product(self) -> Path:
        """File of the losses."""
        return self.folder / LOSSES

    @property
    def unfinished(self) -> Path:
        """File of the losses of an unfinished pass."""
        return self.folder / UNFINISHED_LOSSES


def batch_losses(settled: Settled, decoder: Decoder, tokens: npt.NDArray[Any], folder: Path) -> Float64s:
    """Return the mean loss in nats of each batch of the run's first round under ``decoder``, (first,), measured once.

    Args:
        settled, decoder, tokens, folder: See ``Passed``.
    """
    pass_over([Passed(settled, decoder, tokens, folder)])
    return read_losses(folder / LOSSES, settled.rounds.first)


def pass_over(runs: Sequence[Passed]) -> None:
    """Measure the losses of runs with equal ``stack_key`` together, and store them in ``batch_losses.parquet`` of each run.

    A pass that was killed resumes after the last batches that every run has on disk (``batch_losses.part``), with the same
    or other runs; a batch's loss does not depend on where a pass started.
    """
    with contextlib.ExitStack() as held:
        for run in sorted(
            runs, key=lambda run: run.folder
        ):  # in one order everywhere, so that no two passes wait for each other
            held.enter_context(locked(run.product, "the losses of a run's batches"))
        runs = [run for run in runs if not run.product.exists()]
        if not runs:
            return
        count = runs[0].settled.rounds.first
        measured = [_whole(run.unfinished)[:count] for run in runs]
        for run, done in zip(runs, measured, strict=True):
            write_atomic(run.unfinished, done.tobytes())
        streams = [held.enter_context(run.unfinished.open("ab")) for run in runs]
        first = min(len(done) for done in measured)
        for losses in measure(runs, range(first, count)):
            first += len(losses)
            for row, stream in enumerate(streams):
                new = losses[len(losses) - max(0, first - len(measured[row])) :, row]
                stream.write(new.tobytes())
                stream.flush()
                measured[row] = np.concatenate((measured[row], new))
        for run, losses in zip(runs, measured, strict=True):
            write_losses(run.product, losses)
            run.unfinished.unlink()


def first_batches(settled: Settled, tokens: npt.NDArray[Any]) -> Batches:
    """Return the order of the first round."""
    return training_batches(tokens, settled.config, settled.shards)


def measure(runs: Sequence[Passed], ids: range) -> Iterator[Float64s]:
    """Yield the mean losses in nats of the batches ``ids`` of each run, (some, R), in the runs' own precision and threads."""
    settled = runs[0].settled
    train = settled.config.train
    torch.set_num_threads(thread_count(train.threads))
    device = pick_device(train.device)
    decoders = [run.decoder.to(device) for run in runs]
    decoder = decoders[0] if len(runs) == 1 else stacked(decoders)
    orders = [first_batches(run.settled, run.tokens) for run in runs]
    forward = flops_per_token(settled.shape, train.context_length)["forward"] * train.batch_tokens * len(ids) * len(runs)
    bar = progress.bar(total=len(ids) * len(runs) * train.batch_tokens, description="batch losses", unit="tok")
    try:
        with (
            torch.no_grad(),
            torch.autocast(device, torch.bfloat16, enabled=settled.multiplies_bf16),
            compiled(decoder, worth_compiling(settled, forward)),
        ):
            for start in range(ids.start, ids.stop, _TOGETHER):
                some = range(start, min(start + _TOGETHER, ids.stop))
                # By the micro batches that they were trained in; the host waits for the device once for all of them.
                parts = []
                for part in range(some.start * settled.accumulation, some.stop * settled.accumulation):
                    places = np.arange(part * settled.micro_batch, (part + 1) * settled.micro_batch, dtype=np.int64)
                    ids_of_runs = np.stack([order.inputs(places) for order in orders])
                    inputs = torch.from_numpy(ids_of_runs if decoder.runs else ids_of_runs[0]).to(device, non_blocking=True)
                    parts.append(decoder.loss(inputs[..., :-1], inputs[..., 1:]))
                losses = torch.stack(parts).cpu().double().view(len(some), settled.accumulation, len(runs)).mean(1)
                bar.update(len(some) * len(runs) * train.batch_tokens)
                yield losses.numpy()
    finally:
        bar.close()
        for run in runs:
            run.decoder.cpu()


def write_losses(path: Path, losses: Float64s) -> None:
    """Write batch ids with their losses as Parquet, atomically."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({"batch": np.arange(len(losses)), "loss": losses}), stream)
    write_atomic(path, stream.getvalue())


def read_losses(path: Path, count: int) -> Float64s:
    """Read the file of ``write_losses``.

    Raises:
        UserError: It is damaged, or does not have ``count`` batches.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        losses = pq.read_table(path, columns=["loss"])["loss"].to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path}: not a file of batch losses ({error}); delete it to measure them again") from error
    if len(losses) != count:
        raise UserError(f"{path}: {len(losses)} losses for {count} batches; delete it to measure them again")
    return np.asarray(losses, dtype=np.float64)


def _whole(path: Path) -> Float64s:
    """Read the losses that were written completely."""
    if not path.exists():
        return np.empty(0)
    content = path.read_bytes()
    return np.frombuffer(content[: len(content) // 8 * 8], dtype=np.float64)
