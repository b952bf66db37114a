"""Learned masks: training selects the units that a child keeps, with Lagrange multipliers on the number of each kind.

The paper gives no formula and cites Sheared-LLaMA (Xia et al. 2023, arXiv 2310.06694), whose method this is: every unit has a
gate with a probability P of being open (``tinylm_ablate.init.gates``), which is sampled in each step.

Each axis has its own target, the child's size: one for the hidden channels, and one per layer for heads and FFN neurons. With s
the expected share of closed gates and t its target, the gates (and the weights) descend, and the multipliers l1, l2, which
start at 0, ascend the gradient of

    loss(gated parent) + sum over targets of l1 (s - t) + l2 (s - t)^2,

while t increases from 0 to the child's over the first ``masks.warmup`` of the steps. Finally, the units with the highest P are
kept, as many as the child has, and the values of their gates are folded into the weights. An axis with the same size in the
child gets no gates, so that a child of the parent's shape has the parent's weights.

Other criteria score once per parent, this one once per parent and target: the names of its files include the child's sizes and
layers. Its scores and weights have the parent's sizes, so that the same cut serves all criteria.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from tinylm_ablate import progress
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape, parameters
from tinylm_ablate.arch.stacking import stacked
from tinylm_ablate.data.once import write_once
from tinylm_ablate.errors import RunFailed
from tinylm_ablate.files import building, fingerprint, save_tensors
from tinylm_ablate.formats.huggingface import to_huggingface
from tinylm_ablate.formats.safetensors_folder import LazyState
from tinylm_ablate.init.calibration import Calibration, parent_decoder
from tinylm_ablate.init.gates import Gates, fold, gated, gates_for
from tinylm_ablate.init.neurons import Scores
from tinylm_ablate.init.parents import Parent

if TYPE_CHECKING:
    from tinylm_ablate.config import MasksConfig

#: From Sheared-LLaMA's published configuration, like the schedule: all learning rates rise over the first tenth of the steps
#: and then follow a cosine to a tenth of their peak.
_BETAS, _CLIP = (0.9, 0.95), 1.0
_RISE, _FINAL = 0.1, 0.1

#: Ours: no momentum for gates and multipliers, which form a control loop. A momentum of 0.9 delays by ten steps, in which a
#: gate crosses its whole range at a rate of 1; over a few hundred steps, the axes then oscillate around their targets.
_GATE_BETAS = (0.0, 0.95)

_SEED = 0

#: An axis is reported if its final distance from its target exceeds this share of the units to close.
_FAR = 0.1

_SCORES, _WEIGHTS, _RECORD = "scores.safetensors", "weights", "masks.json"


@dataclass(frozen=True, eq=False)
class Learned:
    """Learned scores and weights for one parent and one target.

    Attributes:
        scores: The probability of each unit to be open; 0 in layers that the child does not have.
        state: The trained weights with the gates' values folded in, under the parent's names (Hugging Face's) and of its sizes,
            in single precision; without layers that the child does not have.
        record: ``steps``, the final ``loss`` in nats, ``distance`` {axis: for each target, the expected number of open units
            minus the child's}, and ``curve``, for each step the loss and each axis' largest distance.
    """

    scores: Scores
    state: Mapping[str, Tensor]
    record: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write scores, weights (safetensors) and record atomically; a damaged folder is replaced."""
        if folder.exists():
            shutil.rmtree(folder)
        with building(folder) as unfinished:
            self.scores.save(unfinished / _SCORES)
            (unfinished / _WEIGHTS).mkdir()
            save_tensors(unfinished / _WEIGHTS / "model.safetensors", self.state)
            (unfinished / _RECORD).write_text(json.dumps(self.record, allow_nan=False))

    @classmethod
    def load(cls, folder: Path) -> Learned:
        """Read the files of ``save``; weights are read on first use."""
        state = LazyState(folder / _WEIGHTS)
        return cls(Scores.load(folder / _SCORES), state, json.loads((folder / _RECORD).read_text()))


class Target(NamedTuple):
    """A parent, the child that its masks are learned for, and the parent layer of each child layer."""

    parent: Parent
    child: Shape
    layers: Sequence[int]

    @property
    def kept(self) -> list[int]:
        """Layers that the child has, ascending, each once."""
        return sorted(set(self.layers))

    @property
    def shape(self) -> Shape:
        """The parent's shape without the layers that are left out."""
        return dataclasses.replace(self.parent.shape, depth=len(self.kept))


def open_masks(
    targets: Sequence[Target],
    calibration: Calibration,
    masks: MasksConfig,
    cache_dir: Path,
    precision: str = "fp32",
    device: str = "cpu",
) -> list[Learned]:
    """Return the learned masks of each target; ``learn`` is run for those without, together.

    They are cached in ``cache_dir/scores`` by parent, the child's sizes and layers, and all settings. Each takes as much disk
    space as its parent in single precision.
    """
    folders = [_folder(target, calibration, masks, cache_dir, precision) for target in targets]
    write_once(
        dict(zip(folders, targets, strict=True)),
        lambda missing: [learned.save for learned in learn(missing, calibration, masks, precision, device)],
        what="the learned masks",
        is_whole=lambda folder: (folder / _RECORD).is_file(),
        needed=4 * sum(parameters(target.parent.shape)["total"] for target in targets),
    )
    return [Learned.load(folder) for folder in folders]


def _folder(target: Target, calibration: Calibration, masks: MasksConfig, cache_dir: Path, precision: str) -> Path:
    child = target.child
    content = {
        "text": calibration.fingerprint,
        "sizes": [child.width, child.heads, child.kv_heads, child.ffn_width],
        "layers": target.kept,
        "masks": dataclasses.asdict(masks),
        "precision": precision,
    }
    return cache_dir / "scores" / f"{target.parent.fingerprint}-learned-{fingerprint(content)}"


def learn(
    targets: Sequence[Target],
    calibration: Calibration,
    masks: MasksConfig,
    precision: str = "fp32",
    device: str = "cpu",
) -> list[Learned]:
    """Train gates for each child, together with the weights; several targets as one program.

    Memory per target, in copies of the parent in single precision: its weights, the gated weights and their gradients; if the
    weights are trained, also their gradients and the optimizer's two moments; on a GPU, the gradients of the graph's passes.

    Args:
        targets: Parents of one shape and tokenizer, whose weights are not changed, and children of one depth.
        calibration: The text; it is read once, ``masks.batch_tokens`` per step.
        masks: Learning rates, batch, warm-up and beta.
        precision: Precision of the matrix products, "fp32" or "bf16".
        device: "cpu" or "cuda".

    Raises:
        RunFailed: A loss was not finite.
    """
    shape = targets[0].shape
    decoder = _decoder(targets).to(device)
    weights = [
        {name: row.detach().clone() for name, row in own.items()} for own in _by_run(dict(decoder.named_parameters()), decoder)
    ]
    gates = [gates_for(shape, target.child, masks.temperature) for target in targets]
    for gate in _every(gates):
        gate.to(device)
    curves = _train(decoder, shape, weights, gates, calibration, masks, precision)
    if device == "cuda":
        gc.collect()  # a graph is part of a reference cycle, and keeps its memory
        torch.cuda.empty_cache()
    return [_learned(*each) for each in zip(targets, weights, gates, curves, strict=True)]


def _decoder(targets: Sequence[Target]) -> Decoder:
    """The parents without the layers that are left out, as one decoder."""
    decoders = []
    for target in targets:
        decoder = parent_decoder(target.parent)
        decoder.layers = nn.ModuleList(decoder.layers[layer] for layer in target.kept)
        decoder.shape = target.shape
        decoders.append(decoder)
    return decoders[0] if len(decoders) == 1 else stacked(decoders)


def _by_run(tensors: Mapping[str, Tensor], decoder: Decoder) -> list[dict[str, Tensor]]:
    """Tensors of a decoder of one or more runs, as those of each run."""
    if decoder.runs is None:
        return [dict(tensors)]
    return [{name: tensor[run] for name, tensor in tensors.items()} for run in range(decoder.runs)]


def _every(gates: Sequence[Mapping[str, Gates]]) -> list[Gates]:
    return [gate for own in gates for gate in own.values()]


def _learned(target: Target, weights: Mapping[str, Tensor], gates: dict[str, Gates], curve: list[dict[str, float]]) -> Learned:
    """Result for a target, from its trained gates and weights."""
    _report_far(gates)
    with torch.no_grad():
        folded = fold(weights, target.shape, {axis: gate.values() for axis, gate in gates.items()})
    state = to_huggingface({name: weight.detach().cpu() for name, weight in folded.items()}, target.shape)
    record = {
        "steps": len(curve),
        "loss": curve[-1]["loss"] if curve else None,
        "distance": {axis: [float(d) for d in gate.distance()] for axis, gate in gates.items()},
        "curve": curve,
    }
    return Learned(_scores(target.parent.shape, target.kept, gates), _renamed(state, target.kept), record)


def _train(
    decoder: Decoder,
    shape: Shape,
    weights: Sequence[dict[str, Tensor]],
    gates: Sequence[dict[str, Gates]],
    calibration: Calibration,
    masks: MasksConfig,
    precision: str,
) -> list[list[dict[str, float]]]:
    """Train gates, multipliers and ``weights`` of each target in place; return a curve for each.

    The gated weights are written to ``decoder``. A target without gates is left unchanged.
    """
    curves: list[list[dict[str, float]]] = [[] for _ in weights]
    if not any(gates):
        return curves
    groups: list[dict[str, Any]] = [
        {"params": [gate.log_alpha for gate in _every(gates)], "lr": masks.learning_rate, "betas": _GATE_BETAS},
        {
            "params": [gate.multipliers for gate in _every(gates)],
            "lr": masks.learning_rate,
            "betas": _GATE_BETAS,
            "maximize": True,
        },
    ]
    trained = [
        list(own.values()) if own_gates and masks.weight_learning_rate > 0 else []
        for own, own_gates in zip(weights, gates, strict=True)
    ]
    if every := [weight.requires_grad_() for own in trained for weight in own]:
        groups.append({"params": every, "lr": masks.weight_learning_rate})
    optimizer = torch.optim.AdamW(groups, betas=_BETAS, weight_decay=0.0, fused=decoder.norm.weight.is_cuda or None)
    passes = Passes(decoder, precision)
    generators = [torch.Generator().manual_seed(_SEED) for _ in weights]  # one each, so that a target is drawn as it is alone
    sequences = max(1, masks.batch_tokens // calibration.context_length)
    steps = max(1, calibration.sequences // sequences)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    with progress.bar(total=steps, description="learning masks", unit="step") as bar:
        for step in range(steps):
            current = [
                gated(own, shape, {axis: gate.sample(generator) for axis, gate in own_gates.items()})
                for own, own_gates, generator in zip(weights, gates, generators, strict=True)
            ]
            optimizer.zero_grad()
            batches = calibration.batches(step * sequences, (step + 1) * sequences)
            losses = backward(passes, current, batches, sequences)
            if bad := [loss for loss in losses if not math.isfinite(loss)]:
                raise RunFailed(
                    f"learned masks: the loss of step {step + 1} of {steps} is {bad[0]}; try a lower "
                    "init.masks.weight_learning_rate or init.masks.learning_rate"
                )
            reached = min(1.0, (step + 1) / (masks.warmup * steps)) if masks.warmup else 1.0
            torch.stack([gate.penalty(reached) for gate in _every(gates)]).sum().backward()  # type: ignore[no-untyped-call]
            for own in trained:
                nn.utils.clip_grad_norm_(own, _CLIP)
            optimizer.step()
            schedule.step()
            for gate in _every(gates):
                gate.clamp()
            far = iter(torch.stack([_largest(gate) for gate in _every(gates)]).tolist())
            for curve, loss, own_gates in zip(curves, losses, gates, strict=True):
                if own_gates:
                    curve.append({"loss": loss, **{axis: next(far) for axis in own_gates}})
            bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in next(filter(None, curves))[-1].items()))
            bar.update()
    return curves


def _rate(step: int, steps: int) -> float:
    """Return the learning rate factor of a step, counted from 0."""
    rise = math.ceil(_RISE * steps)
    if step < rise:
        return (step + 1) / rise
    return _FINAL + (1 - _FINAL) * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise))) / 2


class Passes:
    """Mean loss of token ids by a decoder whose weights are overwritten between steps; on a GPU, a graph replays both passes.

    Args:
        decoder: The decoder.
        precision: Precision of the matrix products.
    """

    def __init__(self, decoder: Decoder, precision: str) -> None:
        self.decoder = decoder
        self.device = decoder.norm.weight.device
        self._bf16 = precision == "bf16"
        self._graphs: dict[tuple[torch.Size, tuple[bool, ...]], Callable[[Tensor], Tensor]] = {}

    def __call__(self, tokens: Tensor) -> Tensor:
        """The loss of each run, from ids (B, T + 1)."""
        # The autocast cache would keep copies of weights in a graph's memory.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=self.device.type == "cpu"):
            if self.device.type != "cuda":
                return self.decoder.loss(tokens[:, :-1], tokens[:, 1:])
            key = tokens.shape, tuple(parameter.requires_grad for parameter in self.decoder.parameters())
            if key not in self._graphs:
                graphed = torch.cuda.make_graphed_callables(_Loss(self.decoder), (tokens.clone(),), allow_unused_input=True)
                self._graphs[key] = cast("Callable[[Tensor], Tensor]", graphed)
            return self._graphs[key](tokens)


class _Loss(nn.Module):
    """The loss of a decoder, as a module."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T + 1) ids -> the loss of each run."""
        return self.decoder.loss(tokens[:, :-1], tokens[:, 1:])


def backward(passes: Passes, weights: Sequence[Mapping[str, Tensor]], batches: Iterable[Tensor], sequences: int) -> list[float]:
    """Return the mean loss of each run with other weights, and backpropagate to the tensors they were computed from.

    The decoder has copies, so that micro batches are computed as in an ordinary model, and the backward pass from the weights
    runs once for all of them.

    Args:
        passes: The decoder that receives the weights.
        weights: Weights of each run, under the decoder's names; some have a gradient history.
        batches: Token ids, (B, T + 1) each.
        sequences: Number of sequences in all batches.
    """
    parameters = dict(passes.decoder.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.requires_grad_(any(own[name].requires_grad for own in weights))
            # Never the gradients of the passes themselves, which the next replay of a graph overwrites.
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        for rows, own in zip(_by_run(parameters, passes.decoder), weights, strict=True):
            for name, row in rows.items():
                row.copy_(own[name])
    totals = torch.zeros(len(weights), dtype=torch.float64, device=passes.device)
    for batch in batches:
        losses = passes(batch.to(passes.device)) * (len(batch) / sequences)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        totals += losses.detach()
    gradients = {name: parameter.grad for name, parameter in parameters.items() if parameter.grad is not None}
    used = zip(_by_run(gradients, passes.decoder), weights, strict=True)
    changed = [(own[name], slope) for slopes, own in used for name, slope in slopes.items() if own[name].requires_grad]
    torch.autograd.backward([weight for weight, _ in changed], [slope for _, slope in changed])
    found: list[float] = totals.tolist()
    return found


def _largest(gates: Gates) -> Tensor:
    """Largest distance from a target, without synchronizing with a GPU."""
    distances = gates.distance()
    return distances.gather(0, distances.abs().argmax(0, keepdim=True)).squeeze(0)


def _report_far(gates: Mapping[str, Gates]) -> None:
    """Report axes that ended far from their targets, where the final cut decides more than the masks."""
    for axis, gate in gates.items():
        distance = float(_largest(gate))
        if abs(distance) > max(1.0, _FAR * (gate.units - gate.kept)):
            print(
                f"note: the masks of {axis} ended {distance:+.1f} units from their target of {gate.kept} of {gate.units}; "
                "increase init.masks.steps",
                file=sys.stderr,
            )


def _scores(parent: Shape, kept: Sequence[int], gates: Mapping[str, Gates]) -> Scores:
    """Use the probabilities of being open as scores; those of the width, shared by all layers, are in the embedding's row."""
    sizes = {"width": parent.width, "heads": parent.heads, "ffn": parent.ffn_width}
    tables = {axis: torch.zeros(parent.depth, size, dtype=torch.float64) for axis, size in sizes.items()}
    tables["width"] = torch.zeros(parent.depth + 1, parent.width, dtype=torch.float64)
    rows = {"width": [parent.depth], "heads": list(kept), "ffn": list(kept)}
    for axis, table in tables.items():
        table[rows[axis]] = 1.0
        if axis in gates:
            open_ = gates[axis].probability().detach().cpu().double()
            size = table.shape[1] // open_.shape[1]
            table[rows[axis]] = open_.repeat_interleave(size, dim=1) / size
    return Scores("learned", kv_heads=torch.zeros(parent.depth, parent.kv_heads, dtype=torch.float64), **tables)


def _renamed(state: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
    """Rename the layers of ``state`` to their indices in the parent."""
    prefix = "model.layers."
    result = {}
    for name, weight in state.items():
        if name.startswith(prefix):
            layer, _, part = name.removeprefix(prefix).partition(".")
            name = f"{prefix}{kept[int(layer)]}.{part}"
        result[name] = weight
    return result
