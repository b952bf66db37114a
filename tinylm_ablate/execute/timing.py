"""Speed of this machine with a shape, from a second of measurement that is cached for later plans.

The time of a decoder is a + b * depth per sequence, since its layers are alike. One and four layers of the real width, on a
real sequence, therefore determine a and b for the passes of training, the forward pass of evaluation and an optimizer step. The
measurements are cached in the user's cache folder, for this machine and these versions, and a plan measures at most
``_MOST_MEASURED`` shapes: others are estimated from the closest measured ones. A shape whose four layers are too large to
measure is estimated from a model of medium size by the ratio of their FLOPs: on matrices of that size, a machine is about as
fast as on larger ones. A model of a billion parameters is thus timed without building it.

On a CPU, time is the processor time of the main thread. It takes part in every parallel operation, and its clock stops while
another program uses the core, so that a plan on a busy machine is that for an idle one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate.arch.shapes import Shape, flops_per_token, parameters
from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.files import fingerprint, write_atomic
from tinylm_ablate.hardware import pick_device, thread_count, torch_threads
from tinylm_ablate.paths import user_cache
from tinylm_ablate.provenance import provenance

#: Layers of the deeper of the two measured models: the time per layer is their difference, which would be lost in noise if the
#: depths were similar.
_LAYERS = 4

#: Training FLOPs of its step; about 50 ms on a core, less on a GPU.
_STEP_FLOPS = {"cpu": 2e9, "cuda": 4e13}

#: Maximum number of shapes to measure per process; others are estimated from all existing measurements.
_MOST_MEASURED = 2

#: Maximum relative difference of FLOPs per layer for estimating a shape from a single measured one.
_NEAR = 1.2

#: The same for estimating it from two measured ones, with less and with more FLOPs.
_BETWEEN = 2.0

#: Model that represents all shapes that are too large to measure, and the tokens of its sequences.
_MEDIUM = Shape(depth=20, width=512, ffn_width=1408, heads=4, kv_heads=4, head_dim=128, vocab_size=4096)
_MEDIUM_TOKENS = 256

#: Minimum repetitions and seconds of a measurement, after one warm-up step.
_LEAST_STEPS = 3
_LEAST_SECONDS = 0.1

#: Share of a core for the measured thread below which the machine is busy.
_IDLE_SHARE = 0.7

#: Seconds before a measurement is repeated: on a busy machine, and otherwise.
_BUSY_SECONDS, _IDLE_SECONDS = 3600.0, 365 * 86400.0


@dataclass(frozen=True)
class Speed:
    """Speed of this machine with a shape.

    Attributes:
        training: Seconds of forward and backward pass for one token.
        forward: Seconds of an evaluation's forward pass for one token, in fp32.
        optimizer: Seconds of one optimizer step, gradients clipped.
    """

    training: float
    forward: float
    optimizer: float

    def scaled(self, flops: float, entries: float) -> Speed:
        """Scale the passes by FLOPs, and the optimizer step by parameters."""
        return Speed(self.training * flops, self.forward * flops, self.optimizer * entries)


def speed(
    shape: Shape,
    context_length: int,
    micro_batch: int,
    precision: str,
    threads: int | str,
    optimizer: OptimizerConfig,
    device: str = "auto",
    runs: int = 1,
) -> Speed:
    """Return the speed of this machine's CPU or GPU with a shape, measured or estimated, without compilation.

    Args:
        shape: The decoder.
        context_length: Tokens per sequence.
        micro_batch: Sequences in one forward pass.
        precision: "fp32" or "bf16".
        threads: CPU threads; "auto" is one per core.
        optimizer: The optimizer to measure.
        device: ``train.device``.
        runs: Number of runs that train as one program; the speed is the share of one.
    """
    device = pick_device(device)
    limit = _STEP_FLOPS.get(device, _STEP_FLOPS["cpu"])
    measured, tokens, sequences = shape, context_length, micro_batch
    if _step_flops(shape, context_length) > limit:
        measured, tokens, sequences = _MEDIUM, _MEDIUM_TOKENS, micro_batch
    sequences = max(1, min(sequences, int(limit / _step_flops(measured, tokens))))
    key = _key(measured, tokens, sequences, precision, thread_count(threads), optimizer.name, device, runs)
    found = _layers(key, optimizer)
    if measured is shape:
        return found.of(shape.depth)
    return found.of(measured.depth).scaled(
        _flops(shape, context_length) / _flops(measured, tokens), parameters(shape)["total"] / parameters(measured)["total"]
    )


def _step_flops(shape: Shape, context_length: int) -> int:
    """FLOPs of a training step of the deeper model on one sequence."""
    return context_length * _flops(dataclasses.replace(shape, depth=_LAYERS), context_length)


def _flops(shape: Shape, context_length: int) -> int:
    return flops_per_token(shape, context_length)["training"]


@dataclass(frozen=True)
class _Layers:
    """Cost of the layers of a shape, and of everything else.

    Attributes:
        rest: Embedding, head and loss.
        layer: One layer.
    """

    rest: Speed
    layer: Speed

    def least(self, other: _Layers) -> _Layers:
        """Return the minimum of each time in two measurements: other programs can only increase them."""
        pairs = ((self.rest, other.rest), (self.layer, other.layer))
        return _Layers(*(Speed(*map(min, dataclasses.astuple(a), dataclasses.astuple(b))) for a, b in pairs))

    def of(self, depth: int) -> Speed:
        """Return the cost of a number of layers and the rest."""
        return Speed(
            *(a + depth * b for a, b in zip(dataclasses.astuple(self.rest), dataclasses.astuple(self.layer), strict=True))
        )


class _Key:
    """Settings that a measurement depends on, besides the machine and the versions.

    Attributes:
        shape: The decoder at a depth of one.
        tokens: Tokens per sequence.
        sequences: Sequences per batch.
        setting: Precision, threads, optimizer, device and runs.
        layer, rest: Training FLOPs of a layer and of the rest, per token.
        size: Parameters of a layer and of the rest.
    """

    def __init__(
        self, shape: Shape, tokens: int, sequences: int, precision: str, threads: int, optimizer: str, device: str, runs: int
    ) -> None:
        self.shape, self.tokens, self.sequences = dataclasses.replace(shape, depth=1), tokens, sequences
        self.setting = (precision, threads, optimizer, device, runs)
        two = dataclasses.replace(shape, depth=2)
        one_flops, one_size = _flops(self.shape, tokens), parameters(self.shape)["total"]
        self.layer = _flops(two, tokens) - one_flops
        self.rest = one_flops - self.layer
        layer_size = parameters(two)["total"] - one_size
        self.size = (layer_size, one_size - layer_size)

    @functools.cached_property
    def path(self) -> Path:
        """File of the measurement in the user's cache; its folder has those with the same setting, machine and versions."""
        content = {"shape": dataclasses.asdict(self.shape), "tokens": self.tokens, "sequences": self.sequences}
        return Path("speed") / fingerprint([_machine(), self.setting]) / f"{fingerprint(content)}.json"


_key = functools.cache(_Key)  # cells of a grid have few shapes


@functools.cache
def _machine() -> str:
    about = provenance()
    machine = {name: about["machine"][name] for name in ("system", "processor", "cores", "accelerator")}
    return fingerprint(machine | {"torch": about["packages"]["torch"], "format": _FORMAT})


#: Version of the cached measurements.
_FORMAT = 1


@dataclass(frozen=True)
class _Kept:
    """A measurement, its FLOPs and sizes, and the time (Unix) until which it is not repeated."""

    layers: _Layers
    layer: float
    rest: float
    size: tuple[int, int]
    valid_until: float


#: Known measurements by folder and file name; and those of this process.
_known: dict[Path, dict[str, _Kept]] = {}
_measured: list[Path] = []

#: Duration of the measurements in this process: processor time and wall time, seconds.
_spent = [0.0, 0.0]


def busy() -> bool:
    """Return whether other programs had much of the cores while this process measured."""
    processor, passed = _spent
    return processor < _IDLE_SHARE * passed


def _layers(key: _Key, optimizer: OptimizerConfig) -> _Layers:
    """Return the cost of a shape's layers: known, estimated from known ones, or measured now and cached."""
    path = user_cache() / key.path
    if path.parent not in _known:
        _known[path.parent] = _read(path.parent)
    known = _known[path.parent]
    before = known.get(path.name)
    if before is not None and (before.valid_until > time.time() or len(_measured) >= _MOST_MEASURED):
        return before.layers
    ratios = [one.layer / key.layer for one in known.values()]
    between = any(1 / _BETWEEN < ratio < 1 for ratio in ratios) and any(1 < ratio < _BETWEEN for ratio in ratios)
    alike = between or any(1 / _NEAR < ratio < _NEAR for ratio in ratios)
    if (alike and before is None) or (known and len(_measured) >= _MOST_MEASURED):
        return _estimated(key, sorted(known.values(), key=lambda one: one.layer))
    layers = _measure(key, optimizer)
    if before is not None:
        layers = layers.least(before.layers)
    valid = time.time() + (_BUSY_SECONDS if busy() else _IDLE_SECONDS)
    known[path.name] = _Kept(layers, key.layer, key.rest, key.size, valid)
    _measured.append(path)
    with contextlib.suppress(OSError):  # if the cache cannot be written, the next plan measures again
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(dataclasses.asdict(known[path.name])))
    return layers


def _estimated(key: _Key, known: list[_Kept]) -> _Layers:
    """Interpolate seconds as a power of FLOPs between the two closest measured shapes, and extrapolate proportionally."""
    below = [one for one in known if one.layer <= key.layer]
    low, high = (below[-1] if below else known[0]), next((one for one in known if one.layer > key.layer), known[-1])
    near = min(low, high, key=lambda one: abs(math.log(one.layer / key.layer)))
    rest = near.layers.rest.scaled(key.rest / near.rest, key.size[1] / near.size[1])
    layer = near.layers.layer.scaled(key.layer / near.layer, key.size[0] / near.size[0])
    if low.layer < key.layer < high.layer:
        place = math.log(key.layer / low.layer) / math.log(high.layer / low.layer)

        def between(name: str) -> float:
            one, other = (max(getattr(kept.layers.layer, name), 1e-12) for kept in (low, high))
            return float(one ** (1 - place) * other**place)

        layer = dataclasses.replace(layer, training=between("training"), forward=between("forward"))
    return _Layers(rest, layer)


def _read(folder: Path) -> dict[str, _Kept]:
    """Read the measurements in a folder; unreadable ones are ignored."""
    found = {}
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text())
            parts = {name: Speed(**{key: float(value) for key, value in content["layers"][name].items()}) for name in _PARTS}
            size = (int(content["size"][0]), int(content["size"][1]))
            found[path.name] = _Kept(
                _Layers(**parts), float(content["layer"]), float(content["rest"]), size, float(content["valid_until"])
            )
    return found


_PARTS = ("rest", "layer")


def _measure(key: _Key, optimizer: OptimizerConfig) -> _Layers:
    """Measure the cost of a layer and of the rest, from one and from a few layers."""
    precision, threads, _, device, runs = key.setting
    with torch_threads(threads):
        models = [
            _passes(dataclasses.replace(key.shape, depth=depth), key.tokens, key.sequences, precision, optimizer, device, runs)
            for depth in (1, _LAYERS)
        ]
        pairs = [_shortest(one, several, device) for one, several in zip(*models, strict=True)]
    units = (runs * key.sequences * key.tokens, runs * key.sequences * key.tokens, runs)
    layer = [max(0.0, several - one) / (_LAYERS - 1) for one, several in pairs]
    rest = [max(0.0, one - each) for (one, _), each in zip(pairs, layer, strict=True)]
    return _Layers(*(Speed(*(part / unit for part, unit in zip(parts, units, strict=True))) for parts in (rest, layer)))


def _passes(
    shape: Shape, tokens: int, sequences: int, precision: str, optimizer: OptimizerConfig, device: str, runs: int
) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """Operations of a decoder: passes over a batch in training and evaluation, and an optimizer step.

    The optimizer's rule is called directly: PyTorch's class would import the compiler, which takes longer than all
    measurements here.
    """
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.optimizer.optimizers import rule_of
    from tinylm_ablate.optimizer.updates import Settings, apply, first_state, scaled_orthogonal

    decoder = Decoder(shape, None if runs == 1 else runs).to(device)
    ids = torch.randint(shape.vocab_size, (*(() if runs == 1 else (runs,)), sequences, tokens + 1), device=device)
    settings = Settings(
        1e-9, 0.0, optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.momentum, 1,
        orthogonal=functools.partial(scaled_orthogonal, products=torch.float32),
    )  # fmt: skip
    rules = [(rule_of(name, weights.ndim >= 2, optimizer), weights) for name, weights in decoder.named_parameters()]
    states = [(rule, weights, first_state(rule, weights)) for rule, weights in rules]

    def train() -> None:
        decoder.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = decoder.loss(ids[..., :-1], ids[..., 1:])
        loss.sum().backward()  # type: ignore[no-untyped-call]

    def forward() -> None:
        with torch.inference_mode():
            decoder.loss(ids[..., :-1], ids[..., 1:], reduction="none")

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        with torch.no_grad():
            for rule, weights, state in states:
                assert weights.grad is not None
                apply(rule, weights, weights.grad, state, settings)

    return train, forward, step


def _shortest(one: Callable[[], None], other: Callable[[], None], device: str) -> tuple[float, float]:
    """Return the minimum times of two kinds of work, alternating: other programs can only increase them."""
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
