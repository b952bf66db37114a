"""The loss of every training batch under a frozen model: one forward pass over what was trained on, kept beside the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import flops_per_token
from tinylm_ablate.data.batches import Batches
from tinylm_ablate.data.once import locked
from tinylm_ablate.data.training import training_batches
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import write_atomic
from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.rounds import LOSSES
from tinylm_ablate.settled import Settled
from tinylm_ablate.train.compile import compiled, worth_compiling

Float64s = npt.NDArray[np.float64]

#: Batches whose losses are put on the disk together, so that a kill costs few.
_TOGETHER = 16


def batch_losses(settled: Settled, decoder: Decoder, tokens: npt.NDArray[Any], folder: Path) -> Float64s:
    """Mean loss in nats of each batch of the run's first round under ``decoder``, (first,).

    Measured once and read from ``folder/batch_losses.parquet`` afterwards. A pass that was killed resumes from the last
    batches that reached the disk (``batch_losses.part``); a batch's loss does not depend on where a pass began.

    Args:
        settled: The run whose batches they are.
        decoder: The frozen model.
        tokens: The training text as token ids, (n,).
        folder: The run's folder.
    """
    path, unfinished = folder / LOSSES, folder / "batch_losses.part"
    batches, count = first_batches(settled, tokens), settled.rounds.first
    with locked(path, "the losses of a run's batches"):
        if not path.exists():
            done = _whole(unfinished)[:count]
            _write_floats(unfinished, done)
            measured = [done]
            with unfinished.open("ab") as stream:
                for losses in measure(settled, decoder, batches, range(len(done), count)):
                    stream.write(losses.tobytes())
                    stream.flush()
                    measured.append(losses)
            write_losses(path, np.concatenate(measured))
            unfinished.unlink()
    return read_losses(path, count)


def first_batches(settled: Settled, tokens: npt.NDArray[Any]) -> Batches:
    """The order of the first round."""
    return training_batches(tokens, settled.config, settled.shards)


def measure(settled: Settled, decoder: Decoder, batches: Batches, ids: range) -> Iterator[Float64s]:
    """Yield the mean losses in nats of the batches ``ids``, some at a time, in the run's own precision and threads."""
    train = settled.config.train
    torch.set_num_threads(thread_count(train.threads))
    device = pick_device(train.device)
    decoder.to(device)
    forward = flops_per_token(settled.shape, train.context_length)["forward"] * train.batch_tokens * len(ids)
    bar = progress.bar(total=len(ids) * train.batch_tokens, description="batch losses", unit="tok")
    try:
        with (
            torch.no_grad(),
            torch.autocast(device, torch.bfloat16, enabled=settled.multiplies_bf16),
            compiled(decoder, worth_compiling(settled, forward)),
        ):
            for start in range(ids.start, ids.stop, _TOGETHER):
                some = range(start, min(start + _TOGETHER, ids.stop))
                losses = torch.stack([_loss(settled, decoder, batches, batch, device) for batch in some])
                bar.update(len(some) * train.batch_tokens)
                yield losses.numpy()
    finally:
        bar.close()
        decoder.cpu()


def _loss(settled: Settled, decoder: Decoder, batches: Batches, batch: int, device: str) -> Tensor:
    """Mean loss of one batch, by the micro batches that it was trained in."""
    total = torch.zeros((), dtype=torch.float64)
    for part in range(settled.accumulation):
        first = (batch * settled.accumulation + part) * settled.micro_batch
        inputs = torch.from_numpy(batches.inputs(np.arange(first, first + settled.micro_batch, dtype=np.int64))).to(device)
        total += decoder.loss(inputs[:, :-1], inputs[:, 1:]).cpu()
    return total / settled.accumulation


def write_losses(path: Path, losses: Float64s) -> None:
    """Write batch ids with their losses as parquet, whole or not at all."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({"batch": np.arange(len(losses)), "loss": losses}), stream)
    write_atomic(path, stream.getvalue())


def read_losses(path: Path, count: int) -> Float64s:
    """Read what ``write_losses`` wrote.

    Raises:
        UserError: It is damaged, or not of ``count`` batches.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        losses = pq.read_table(path, columns=["loss"])["loss"].to_numpy()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path}: not a file of batch losses ({error}); delete it and they are measured again") from error
    if len(losses) != count:
        raise UserError(f"{path}: {len(losses)} losses for {count} batches; delete it and they are measured again")
    return np.asarray(losses, dtype=np.float64)


def _whole(path: Path) -> Float64s:
    """The losses that reached the disk whole."""
    if not path.exists():
        return np.empty(0)
    content = path.read_bytes()
    return np.frombuffer(content[: len(content) // 8 * 8], dtype=np.float64)


def _write_floats(path: Path, losses: Float64s) -> None:
    write_atomic(path, losses.tobytes())
