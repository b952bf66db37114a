"""What a run costs: time on this machine, arithmetic and room on the disk, without doing it."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate.arch.shapes import flops_per_token, parameters
from tinylm_ablate.config import OptimizerConfig
from tinylm_ablate.data.integrity import read_sealed
from tinylm_ablate.execute.timing import speed
from tinylm_ablate.extension import part
from tinylm_ablate.hardware import pick_device
from tinylm_ablate.settled import Settled

#: Seconds of a run that do not depend on its shape: opening the text, making the trainer, writing what is kept. Measured on
#: two cores, as is what follows (benchmarks/plan_truth.py).
_START_SECONDS = 1.0

#: Seconds that a micro batch costs beside its passes: the loop around it.
_LOOP_SECONDS = 0.002

#: What compiled layers win in training, and what compiling costs, seconds: the first time, and when the code is there already.
_COMPILED_GAIN = 1.15
_COMPILE_SECONDS = 25.0
_COMPILED_SECONDS = 2.5

#: Seconds before the first run of a program: what it imports.
PROGRAM_SECONDS = 8.0

#: Bytes of text a token: one for a vocabulary of bytes, and about half a byte more for each doubling, up to this.
_MOST_BYTES_PER_TOKEN = 4.5

#: Numbers that an optimizer keeps for each parameter.
_MOMENTS = {"adamw": 2, "lion": 1, "muon": 1, "schedule_free": 2}


def _kept(optimizer: OptimizerConfig) -> int:
    """Numbers that the optimizer keeps for each weight."""
    return len(part(optimizer.own, "optimizer.own").keeps) if optimizer.name == "own" else _MOMENTS[optimizer.name]


#: Checkpoints on the disk at once (``train.checkpoint``), the third while it is written.
_CHECKPOINTS = 3

#: Languages of a text that has not been read yet.
_LANGUAGES = 2


@dataclass(frozen=True)
class Cost:
    """What a run costs, without the runs that it needs.

    Attributes:
        tokens: Tokens that it trains on.
        flops: Floating-point operations of its training.
        training: Seconds of training.
        evaluation: Seconds of evaluation.
        start: Seconds of everything else.
        model_bytes: What it keeps.
        checkpoint_bytes: What it needs besides while it trains.
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
        """All of its time."""
        return self.training + self.evaluation + self.start


def cost(settled: Settled, compiled: bool = False) -> Cost:
    """The cost of one run, some of it measured (some seconds for a shape).

    Args:
        settled: The run.
        compiled: Whether a run before it has compiled the same code.
    """
    from tinylm_ablate.train.compile import worth_compiling

    shape, train, optimizer = settled.shape, settled.config.train, settled.config.optimizer
    measured = speed(
        shape, train.context_length, settled.micro_batch, settled.precision, train.threads, optimizer, train.device,
        settled.cache,
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
    if pick_device(train.device) == "cuda":  # CPU processes share the cores that one of them would have
        passes /= train.devices
    training = passes + steps * (measured.optimizer + settled.accumulation * _LOOP_SECONDS)
    count = parameters(shape)["total"]
    state = 4 * count * (1 + _kept(optimizer))
    return Cost(
        tokens=tokens,
        flops=tokens * per_token["training"],
        training=training,
        evaluation=_evaluated_tokens(settled) * measured.forward,
        start=start,
        model_bytes=(4 * count if train.keep_model else 0) + (state if settled.keep_state else 0),
        checkpoint_bytes=_CHECKPOINTS * state,
    )


def code_of(settled: Settled) -> tuple[object, ...]:
    """What distinguishes the code that runs compile: the shape of a layer and of a batch."""
    return (
        dataclasses.replace(settled.shape, depth=1),
        settled.micro_batch,
        settled.precision,
        settled.config.train.context_length,
    )


def _evaluated_tokens(settled: Settled) -> float:
    """Tokens that an evaluation reads: the held-out text of both splits, and four continuations of each cloze question."""
    evaluate = settled.config.evaluate
    corpus = _corpus(settled)
    rate = bytes_per_token(settled.shape.vocab_size)
    languages = len(corpus["bytes"]["test"]) if corpus else _LANGUAGES
    held_out = 2 * languages * int(evaluate.max_bytes)
    if corpus:
        held_out = sum(
            min(size, int(evaluate.max_bytes)) for split in ("validation", "test") for size in corpus["bytes"][split].values()
        )
    # A character of English is a byte, one of Chinese three.
    characters = evaluate.cloze_context + 4 * evaluate.cloze_continuation
    cloze = int(evaluate.cloze_questions) * languages * characters * 2
    return (held_out + cloze) / rate


def bytes_per_token(vocab_size: int) -> float:
    """Estimated bytes of text per token of such a vocabulary."""
    return min(_MOST_BYTES_PER_TOKEN, 1 + 0.52 * max(0.0, math.log2(vocab_size / 257)))


def shard_bytes(settled: Settled) -> int | None:
    """About how large the token shards are that a run would have to make; 0 where they exist, None for an unread text."""
    if (settled.shards / "shards.json").exists():
        return 0
    corpus = _corpus(settled)
    if corpus is None:
        return None
    size = sum(sum(counts.values()) for counts in corpus["bytes"].values())
    return round(size / bytes_per_token(settled.shape.vocab_size)) * (2 if settled.shape.vocab_size <= 2**16 else 4)


def _corpus(settled: Settled) -> dict[str, Any] | None:
    """The summary of a text that has been read."""
    return read_sealed(Path(settled.config.cache_dir) / "text" / settled.text / "corpus.json")
