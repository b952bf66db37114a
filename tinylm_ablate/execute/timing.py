"""What a run costs on this machine, from some seconds of measurement.

A decoder costs a + b * depth for one sequence, since its layers are alike, so one and four layers of the real width, on a real
sequence, give a and b: for the passes of training, for the forward pass of evaluation and for a step of the optimizer. A shape
whose four layers are too much for that is estimated from a model of medium size, by the ratio of their FLOPs: on matrices of
that size a machine is about as fast as on larger ones. A model of a billion parameters is timed without ever being built.

On a CPU the clock is the processor time of the thread that leads the others. It has its share of every piece of work that they
divide, and stops while another program has the core, so that a plan made on a busy machine is that of an idle one.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate.arch.shapes import Shape, flops_per_token, parameters
from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.files import fingerprint, write_atomic
from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.provenance import provenance

#: Layers of the deeper of the two models that are measured: what a layer costs is their difference, and drowns in noise if the
#: depths are near each other.
_LAYERS = 4

#: Training FLOPs of its step; about a tenth of a second on a core, less on a GPU.
_STEP_FLOPS = {"cpu": 4e9, "cuda": 4e13}

#: So many shapes are measured for one plan; the others are estimated from the nearest of these.
_MOST_MEASURED = 4

#: Stands for all shapes that are too large to be measured, and the tokens of its sequences.
_MEDIUM = Shape(depth=20, width=512, ffn_width=1408, heads=4, kv_heads=4, head_dim=128, vocab_size=4096)
_MEDIUM_TOKENS = 256

#: A step is measured at least this often and this long, after one that is not counted.
_LEAST_STEPS = 3
_LEAST_SECONDS = 0.15

#: Where the measured thread had less of a core than this, the machine is busy.
_IDLE_SHARE = 0.7


@dataclass(frozen=True)
class Speed:
    """How fast this machine is with a shape.

    Attributes:
        training: Seconds of forward and backward pass for one token.
        forward: Seconds of an evaluation's forward pass for one token, in fp32.
        optimizer: Seconds of one optimizer step, gradients clipped.
    """

    training: float
    forward: float
    optimizer: float


def speed(
    shape: Shape,
    context_length: int,
    micro_batch: int,
    precision: str,
    threads: int | str,
    optimizer: OptimizerConfig,
    device: str = "auto",
    cache: Path | None = None,
    runs: int = 1,
) -> Speed:
    """Measure a shape on this machine's CPU or GPU, once; layers are not compiled, and a compiled run is faster.

    Once some shapes were measured in a process, others are estimated from the nearest of them by the ratio of FLOPs.

    Args:
        shape: The decoder.
        context_length: Tokens of a sequence.
        micro_batch: Sequences in one forward pass.
        precision: "fp32" or "bf16".
        threads: CPU threads; "auto" is one a core.
        optimizer: Whose step is measured.
        device: ``train.device``.
        cache: Folder that keeps what was measured, for this machine and these versions; None keeps it in memory alone.
        runs: How many runs of the shape train as one program; the speed is the share of one.
    """
    device = pick_device(device)
    limit = _STEP_FLOPS.get(device, _STEP_FLOPS["cpu"])
    measured, tokens, sequences = shape, context_length, micro_batch
    if _step_flops(shape, context_length) > limit:
        measured, tokens, sequences = _MEDIUM, _MEDIUM_TOKENS, micro_batch
    sequences = max(1, min(sequences, int(limit / _step_flops(measured, tokens))))
    key = _Key(measured, tokens, sequences, precision, threads, optimizer.name, device, runs)
    found = _measured(key, optimizer, cache)
    if measured is shape:
        return found
    ratio = _flops(shape, context_length) / _flops(measured, tokens)
    entries = parameters(shape)["total"] / parameters(measured)["total"]
    return Speed(found.training * ratio, found.forward * ratio, found.optimizer * entries)


def _step_flops(shape: Shape, context_length: int) -> int:
    """FLOPs of a training step of the deeper model on one sequence."""
    return context_length * _flops(dataclasses.replace(shape, depth=_LAYERS), context_length)


def _flops(shape: Shape, context_length: int) -> int:
    return flops_per_token(shape, context_length)["training"]


@dataclass(frozen=True)
class _Key:
    """What a measurement depends on, beside the machine and the versions."""

    shape: Shape
    tokens: int
    sequences: int
    precision: str
    threads: int | str
    optimizer: str
    device: str
    runs: int

    @property
    def fingerprint(self) -> str:
        """Names the file that keeps it."""
        about = provenance()
        machine = {name: about["machine"][name] for name in ("system", "processor", "cores", "accelerator")}
        return fingerprint(dataclasses.asdict(self) | {"machine": machine, "torch": about["packages"]["torch"]})

    def alike(self, other: _Key) -> bool:
        """Whether the two differ in their shape and batch alone."""
        names = ("precision", "threads", "optimizer", "device", "runs")
        return all(getattr(self, name) == getattr(other, name) for name in names)


#: What was measured in this process, and how long it took: processor time and time, seconds.
_known: dict[_Key, Speed] = {}
_spent = [0.0, 0.0]


def busy() -> bool:
    """Whether other programs had much of the cores while this process measured."""
    processor, passed = _spent
    return processor < _IDLE_SHARE * passed


def _measured(key: _Key, optimizer: OptimizerConfig, cache: Path | None) -> Speed:
    """A shape at its whole depth, from one and from a few of its layers."""
    shape, tokens = key.shape, key.tokens
    if key in _known:
        return _known[key]
    path = None if cache is None else cache / "speed" / f"{key.fingerprint}.json"
    if path is not None and (kept := _read(path)) is not None:
        _known[key] = kept
        return kept
    alike = [known for known in _known if known.alike(key)]
    if len(alike) >= _MOST_MEASURED:
        flops = _flops(shape, tokens)
        nearest = min(alike, key=lambda known: abs(math.log(_flops(known.shape, known.tokens) / flops)))
        ratio = flops / _flops(nearest.shape, nearest.tokens)
        entries = parameters(shape)["total"] / parameters(nearest.shape)["total"]
        near = _known[nearest]
        return Speed(near.training * ratio, near.forward * ratio, near.optimizer * entries)
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(thread_count(key.threads))
    try:
        models = [_works(dataclasses.replace(key, shape=dataclasses.replace(shape, depth=d)), optimizer) for d in (1, _LAYERS)]
        pairs = [_shortest(one, several, key.device) for one, several in zip(*models, strict=True)]
    finally:
        torch.set_num_threads(before)
    training, forward, step = (one + max(0.0, several - one) / (_LAYERS - 1) * (shape.depth - 1) for one, several in pairs)
    count = key.runs * key.sequences * tokens
    _known[key] = Speed(training / count, forward / count, step / key.runs)
    if path is not None and not busy():
        write_atomic(path, json.dumps(dataclasses.asdict(_known[key])))
    return _known[key]


def _read(path: Path) -> Speed | None:
    try:
        content = json.loads(path.read_text())
        return Speed(float(content["training"]), float(content["forward"]), float(content["optimizer"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _works(key: _Key, optimizer: OptimizerConfig) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """What a decoder does: its passes over a batch in training, those of an evaluation, and a step of the optimizer."""
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.optimizer.optimizers import build_optimizer

    device = key.device
    decoder = Decoder(key.shape, None if key.runs == 1 else key.runs).to(device)
    ids = torch.randint(key.shape.vocab_size, (*(() if key.runs == 1 else (key.runs,)), key.sequences, key.tokens + 1))
    ids = ids.to(device)
    stepper = build_optimizer(decoder, optimizer, 1e-9)

    def train() -> None:
        decoder.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=key.precision == "bf16"):
            loss = decoder.loss(ids[..., :-1], ids[..., 1:])
        loss.sum().backward()  # type: ignore[no-untyped-call]

    def forward() -> None:
        with torch.inference_mode():
            decoder.loss(ids[..., :-1], ids[..., 1:], reduction="none")

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        stepper.step()

    return train, forward, step


def _shortest(one: Callable[[], None], other: Callable[[], None], device: str) -> tuple[float, float]:
    """The shortest of some times of each of two works, done in turn: what else the machine does can only make them longer."""
    import torch

    clock = time.perf_counter if device == "cuda" else time.thread_time
    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    while len(times[0]) < 1 + _LEAST_STEPS or sum(times[0]) < _LEAST_SECONDS:
        for do, found in zip((one, other), times, strict=True):
            start = clock()
            do()
            if device == "cuda":
                torch.cuda.synchronize()
            found.append(clock() - start)
    _spent[0] += sum(times[0]) + sum(times[1])
    _spent[1] += time.perf_counter() - begin
    return min(times[0][1:]), min(times[1][1:])
