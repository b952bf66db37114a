"""Estimated cost of a run: time on this machine, FLOPs and disk space."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate import points
from tinylm_ablate.arch.costs import layer_activations
from tinylm_ablate.arch.shapes import flops_per_token, parameters
from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.execute.text_plan import bytes_per_token, corpus_summary
from tinylm_ablate.execute.timing import speed
from tinylm_ablate.extension import part
from tinylm_ablate.hardware import pick_device
from tinylm_ablate.init.choice import mask_tokens, reads_text, scores_marker
from tinylm_ablate.init.parents import open_parent
from tinylm_ablate.settled import Settled

#: Seconds of a run that do not depend on its shape: opening the corpus, creating the trainer, writing files. This and the
#: following values were measured on two cores (benchmarks/plan_truth.py).
_START_SECONDS = 1.0

#: Seconds per micro batch in addition to its passes: the loop around it. A GPU replays its steps without it.
_LOOP_SECONDS = 0.002

#: Speedup of compiled layers in training, and seconds of compilation: the first time, and with cached code.
_COMPILED_GAIN = 1.15
_COMPILE_SECONDS = 25.0
_COMPILED_SECONDS = 2.5

#: Seconds before the first run of a process: imports.
PROGRAM_SECONDS = 8.0

#: State tensors of an optimizer per parameter.
_MOMENTS = {"adamw": 2, "lion": 1, "muon": 1, "schedule_free": 2}


def _kept(optimizer: OptimizerConfig) -> int:
    """Number of values in the optimizer state per weight."""
    return len(part(optimizer.own, "optimizer.own").keeps) if optimizer.name == "own" else _MOMENTS[optimizer.name]


#: Maximum number of checkpoints on disk (``train.checkpoint``), including one that is being written.
_CHECKPOINTS = 3

#: Bytes per parameter that a choice of layers and neurons needs in addition to the activations of a micro batch of
#: ``_SCORING_TOKENS``: by gradients, the parent's weights and their gradients; by learned masks, its weights, the gated ones,
#: the gradients of both and of a graph's passes, and the optimizer's two moments.
_SCORING_BYTES = {"gradients": 8, "learned": 28}
_SCORING_TOKENS = 1024

#: Number of languages assumed for a text that has not been read yet.
_LANGUAGES = 2


@dataclass(frozen=True)
class Cost:
    """Cost of a run, without the runs that it needs.

    Attributes:
        tokens: Training tokens.
        flops: Floating-point operations of its training.
        training: Seconds of training.
        evaluation: Seconds of evaluation.
        start: Seconds of everything else.
        model_bytes: Bytes that it keeps.
        checkpoint_bytes: Additional bytes during training.
    """

    tokens: int
    flops: int
    training: float
    evaluation: float
    start: float
    model_bytes: int
    checkpoint_bytes: int

    @property
    def seconds(self) -> float:
        """Total time."""
        return self.training + self.evaluation + self.start


def cost(settled: Settled, compiled: bool = False, stack: int = 1) -> Cost:
    """Estimate the cost of one run, partly by measurement (a few seconds per shape).

    Args:
        settled: The run.
        compiled: Whether an earlier run has compiled the same code.
        stack: Number of runs that train together, including this one; times are its share.
    """
    from tinylm_ablate.train.compile import worth_compiling
    from tinylm_ablate.train.stack_key import stackable

    shape, train, optimizer = settled.shape, settled.config.train, settled.config.optimizer
    measured = speed(
        shape, train.context_length, settled.micro_batch, settled.precision, train.threads, optimizer, train.device,
        runs=stack if pick_device(train.device) == "cuda" else 1,  # a CPU computes them one by one
    )  # fmt: skip
    steps = settled.steps - settled.rounds.start
    tokens = steps * train.batch_tokens
    per_token = flops_per_token(shape, train.context_length)
    passes = tokens * measured.training
    start = _START_SECONDS
    if worth_compiling(settled, per_token["training"] * settled.tokens):
        passes, start = passes / _COMPILED_GAIN, start + (_COMPILED_SECONDS if compiled else _COMPILE_SECONDS)
    if settled.previous is not None and settled.rounds.rule in {"loss", "top"}:
        start += settled.rounds.first * train.batch_tokens * measured.forward
    loop = settled.accumulation * _LOOP_SECONDS
    if pick_device(train.device) == "cuda":  # CPU processes share the cores that one of them would have
        passes, loop = passes / train.devices, 0.0 if stackable(settled) else loop
    training = passes + steps * (measured.optimizer + loop)
    count = parameters(shape)["total"]
    state = 4 * count * (1 + _kept(optimizer))
    return Cost(
        tokens=tokens,
        flops=tokens * per_token["training"],
        training=training,
        evaluation=(_evaluated_tokens(settled) + _tokens_along(settled)) * measured.forward,
        start=start,
        model_bytes=(4 * count if train.keep_model else 0)
        + (state if settled.keep_state else 0)
        + len(points.kept(settled)) * (4 * count + state),
        checkpoint_bytes=_CHECKPOINTS * state + len(points.evaluated_steps(settled)) * 4 * count,
    )


@dataclass(frozen=True)
class ScoringCost:
    """Cost of choosing layers and neurons of a parent on text.

    Attributes:
        what: Criteria of the choice.
        tokens: Tokens that the parent processes.
        memory: Bytes at its peak, without the libraries' own.
        seconds: Time on this machine.
    """

    what: str
    tokens: int
    memory: int
    seconds: float


def scoring_cost(settled: Settled) -> ScoringCost | None:
    """Estimate the task between a run and its parent; None if the choice needs no text or is already cached."""
    config, init = settled.config, settled.config.init
    if not reads_text(init) or scores_marker(settled).exists():
        return None
    shape = settled.parent.shape if settled.parent is not None else open_parent(str(init.parent), Path(config.runs_dir)).shape
    train, length = config.train, config.train.context_length
    sequences = max(1, _SCORING_TOKENS // length)
    learned = init.criterion == "learned"
    precision = settled.precision if learned else "fp32"
    measured = speed(shape, length, sequences, precision, train.threads, config.optimizer, train.device)
    looked_at = max(1, init.calibration_tokens // length) * length
    tokens = mask_tokens(settled) if learned else looked_at
    reads = tokens * (1 if learned or init.criterion == "taylor" else 0) * measured.training
    if init.layers == "importance":  # one pass per skipped layer, starting at that layer
        reads += looked_at * (1 + shape.depth / 2) * measured.forward
    held = _SCORING_BYTES["learned" if learned else "gradients"] * parameters(shape)["total"]
    kept = shape.depth * layer_activations(shape, sequences, length, precision)
    return ScoringCost(
        init.criterion if init.layers != "importance" else f"{init.criterion}, layers by importance",
        tokens, held + kept, reads + (init.masks.steps * measured.optimizer if learned else 0.0),
    )  # fmt: skip


def code_of(settled: Settled) -> tuple[object, ...]:
    """Key of the code that a run compiles: the shape of a layer and of a batch."""
    return (
        dataclasses.replace(settled.shape, depth=1),
        settled.micro_batch,
        settled.precision,
        settled.config.train.context_length,
    )


def _tokens_along(settled: Settled) -> float:
    """Tokens processed by evaluation during training."""
    steps, taken = points.evaluated_steps(settled), settled.config.evaluate.every_measures
    if not steps or not taken:
        return 0.0
    there = points.at(settled, steps[0])
    there.config.evaluate = dataclasses.replace(there.config.evaluate, measures=taken)
    return len(steps) * _evaluated_tokens(there)


def _evaluated_tokens(settled: Settled) -> float:
    """Tokens processed by an evaluation: the held-out text of both splits, and four continuations per cloze question."""
    evaluate = settled.config.evaluate
    corpus = corpus_summary(settled)
    rate = bytes_per_token(settled.shape.vocab_size)
    languages = len(corpus["bytes"]["test"]) if corpus else _LANGUAGES
    most, questions = (
        int(amount) if not evaluate.measures or name in evaluate.measures else 0
        for name, amount in (("bits_per_byte", evaluate.max_bytes), ("cloze", evaluate.cloze_questions))
    )
    held_out = 2 * languages * most
    if corpus:
        held_out = sum(min(size, most) for split in ("validation", "test") for size in corpus["bytes"][split].values())
    # English has one byte per character, Chinese three.
    characters = evaluate.cloze_context + 4 * evaluate.cloze_continuation
    return (held_out + questions * languages * characters * 2) / rate
