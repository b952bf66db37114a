"""One run on several devices of this machine, one process per device, with Lightning's DDP or FSDP2.

The run's own process is the first. Only this process writes the curve and the checkpoints and handles signals. It starts the
others itself: Lightning would start the command line again for each, and each would be another grid.

A batch does not depend on the number of devices: its micro batches are distributed in order, and split if there are fewer than
devices. Results therefore differ only in the order of sums, and the devices are not part of a run's identity.
"""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, distributed, nn

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.errors import RunFailed

if TYPE_CHECKING:
    from tinylm_ablate.settled import Settled

#: Maximum time that processes wait for each other.
_PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Share:
    """Share of one device in each optimizer step.

    Attributes:
        rank: Number of the device.
        devices: Number of devices.
        micro_batch: Sequences per forward pass of this device.
        accumulation: Forward passes of this device per optimizer step.
    """

    rank: int
    devices: int
    micro_batch: int
    accumulation: int


def share(settled: Settled, rank: int = 0) -> Share:
    """Share of device ``rank``: micro batches of the run's size, or the largest smaller size that divides evenly."""
    devices = settled.config.train.devices
    sequences = settled.accumulation * settled.micro_batch // devices
    micro_batch = max(size for size in range(1, settled.micro_batch + 1) if sequences % size == 0)
    return Share(rank, devices, micro_batch, sequences // micro_batch)


class Environment(LightningEnvironment):
    """Cluster environment with processes already started, whatever a scheduler has set.

    Args:
        rank: Number of this process.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        """Prevent Lightning from starting processes."""
        return True

    def local_rank(self) -> int:
        """Number of this process on this machine."""
        return self._rank

    def node_rank(self) -> int:
        """Number of this machine, the only one."""
        return 0


def strategy(settled: Settled) -> Strategy | str:
    """Strategy with which Lightning connects the processes."""
    train = settled.config.train
    if train.devices == 1:
        return "auto"
    if train.strategy == "fsdp":
        return ModelParallelStrategy(data_parallel_size=train.devices, tensor_parallel_size=1)
    return DDPStrategy()


@contextlib.contextmanager
def team(settled: Settled, follow: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run the block as the first process of a run, with the others calling ``follow(rank, *arguments)``.

    Raises:
        RunFailed: Another process died.
    """
    devices = settled.config.train.devices
    if devices == 1:
        yield
        return
    # Forks of a process that has only imported modules, so that the next run's processes start immediately.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tinylm_ablate.train.fit"])
    with tempfile.TemporaryDirectory(prefix="tinylm-") as folder:
        meeting = f"file://{folder}/meeting"
        others = [
            context.Process(target=_other, args=(rank, devices, meeting, follow, arguments), name=f"device {rank}")
            for rank in range(1, devices)
        ]
        with _main_module_left_alone():
            for process in others:
                process.start()
        try:
            with _together(0, devices, meeting):
                try:
                    yield
                except RuntimeError as error:  # raised by a collective operation if another process has ended
                    for process in others:
                        process.join(1)
                    dead = [f"{process.name} (exit code {process.exitcode})" for process in others if process.exitcode]
                    if dead:
                        raise RunFailed(f"the process of {', '.join(dead)} ended; the same command resumes the run") from error
                    raise
            for process in others:
                process.join(_PATIENCE.total_seconds())
        finally:
            for process in others:
                process.kill()
                process.join()


def _other(rank: int, devices: int, meeting: str, follow: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run a process other than the first; it ends with the first, which handles signals."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def ends_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=ends_with_parent, daemon=True).start()
    try:
        with _together(rank, devices, meeting):
            follow(rank, *arguments)
    except RunFailed:
        return  # the first process reports it


@contextlib.contextmanager
def _together(rank: int, devices: int, meeting: str) -> Iterator[None]:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=devices, timeout=_PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@contextlib.contextmanager
def _main_module_left_alone() -> Iterator[None]:
    """Prevent new processes from importing the program that this one was started with: they import what they need."""
    main = sys.modules["__main__"]
    names: tuple[str, ...] = ("__file__", "__spec__")
    kept = {name: main.__dict__.pop(name) for name in names if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


def share_weights(decoder: Decoder) -> None:
    """Broadcast the first process' weights."""
    if distributed.is_initialized():
        with torch.no_grad():
            for parameter in decoder.parameters():
                distributed.broadcast(parameter, 0)


def gathered(losses: list[float]) -> list[float]:
    """Gather the losses of an optimizer step from all processes, in the order of the batch."""
    if not distributed.is_initialized():
        return losses
    mine = torch.tensor(losses, dtype=torch.float64)
    parts = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, mine)
    return torch.stack(parts, 1).flatten().tolist()


def agreed(*answers: bool) -> list[bool]:
    """Broadcast the first process' values."""
    if not distributed.is_initialized():
        return list(answers)
    received = torch.tensor(answers, dtype=torch.uint8)
    distributed.broadcast(received, 0)
    return [bool(answer) for answer in received]


def shard(decoder: Decoder, mesh: Any) -> Decoder:
    """Return a copy of a decoder, sharded over the devices layer by layer (FSDP2)."""
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    copied = copy.deepcopy(decoder)
    for layer in copied.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(copied, mesh=mesh)
    register_fsdp_forward_method(copied, "loss")
    return copied


def shard_state(optimizer: torch.optim.Optimizer, whole: dict[str, Any]) -> None:
    """Copy the state of an optimizer of whole parameters to one of sharded parameters."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def part(parameter: Tensor, value: Any) -> Any:
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape:
            return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        return value

    state = {
        index: {name: part(parameters[index], value) for name, value in values.items()}
        for index, values in whole["state"].items()
    }
    optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})


def whole(value: Tensor) -> Tensor:
    """Gather a tensor that may be sharded; all processes must call this."""
    gather = getattr(value, "full_tensor", None)  # of a DTensor, whose import would take a third of the start-up time
    return value if gather is None else gather()


def clipped(module: nn.Module, clip: float) -> float:
    """Clip the gradients to a norm and return the norm before clipping."""
    return float(whole(nn.utils.clip_grad_norm_(module.parameters(), clip)))
