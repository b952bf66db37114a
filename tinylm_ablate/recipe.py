"""Budget, batch and learning rate of a run, and the dial's defaults for rate, weight decay and initial weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tinylm_ablate.arch.shapes import Shape, baseline_parameters
from tinylm_ablate.config import MAX_TOKENS, Config
from tinylm_ablate.scale import at_scale, decay_at_budget, rate_at_budget, rate_at_shape, std_at_width

#: micro_batch=auto: maximum tokens per forward pass, so that the paper's scale fits a GPU.
_MICRO_TOKENS = 16_384

#: Maximum ratio of a shape's learning rate to the baseline's, and of the inverse; and range of tokens per parameter in which
#: the rule for budgets was measured.
_SHAPE_LIMIT, _BUDGET_LIMITS = 4.0, (2.0, 52.0)


@dataclass(frozen=True)
class Budget:
    """Tokens before ``train.share``, steps of the first round, micro batches, and the peak learning rate."""

    tokens: int
    steps: int
    micro_batch: int
    accumulation: int
    learning_rate: float


def budget_of(config: Config, shape: Shape | None) -> tuple[Budget, list[str]]:
    """Return the budget of a config, and mistakes in it; without a shape, the rate omits the rule for shapes."""
    train, scaling = config.train, config.optimizer.scaling
    mistakes = []
    if train.tokens is not None:
        tokens = train.tokens
    elif train.tokens_per_parameter is not None:
        wanted = train.tokens_per_parameter * baseline_parameters(config.scale)
        tokens = round(min(wanted, 2.0 * MAX_TOKENS))
        if tokens > MAX_TOKENS:
            mistakes.append(f"train.tokens_per_parameter={train.tokens_per_parameter:g}: allowed: at most 2^63 tokens in all")
    else:
        tokens = 0
        mistakes.append("train.tokens=null: allowed: a number of tokens, or set train.tokens_per_parameter")
    whole = tokens
    if train.share != 1:
        tokens = math.floor(train.share * whole + 1e-6)
    if whole <= MAX_TOKENS < tokens:
        mistakes.append(f"train.share={train.share:g}: allowed: at most 2^63 tokens in all")
    sequences, rest = divmod(train.batch_tokens, train.context_length)
    if rest:
        mistakes.append(
            f"train.batch_tokens={train.batch_tokens}: allowed: a multiple of train.context_length={train.context_length}"
        )
    elif 0 < whole < train.batch_tokens:
        mistakes.append(f"train.tokens={whole}: allowed: at least one batch, train.batch_tokens={train.batch_tokens}")
    elif whole and tokens < train.batch_tokens:
        mistakes.append(
            f"train.share={train.share:g}: {tokens:,} of {whole:,} tokens; allowed: at least one batch, "
            f"train.batch_tokens={train.batch_tokens}"
        )
    sequences = max(sequences, 1)
    micro_batch = train.micro_batch
    if isinstance(micro_batch, str):
        most = max(1, min(32, _MICRO_TOKENS // train.context_length, sequences))
        micro_batch = max(size for size in range(1, most + 1) if sequences % size == 0)
    elif sequences % micro_batch:
        mistakes.append(f"train.micro_batch={micro_batch}: allowed: a divisor of the {sequences} sequences of a batch")
    try:
        base = dial_rate(config, shape, whole) if scaling.base_lr is None else scaling.base_lr
        rate = (train.batch_tokens / scaling.base_batch_tokens) ** scaling.exponent * base * scaling.multiplier
    except OverflowError:
        rate = float("inf")
    if not 0 < rate < 1e3:
        mistakes.append(
            f"optimizer.scaling.exponent={scaling.exponent:g}: results in a learning rate of {rate:g}; allowed: below 1000"
        )
    steps = max(1, tokens // train.batch_tokens)
    return Budget(whole, steps, micro_batch, max(1, sequences // micro_batch), rate), mistakes


def dial_rate(config: Config, shape: Shape | None, tokens: int) -> float:
    """Default of the peak learning rate at the base batch: the scale's, with the rules for shape and budget.

    Neither rule is applied outside its measured range, nor at the paper's scale, whose rate is stated (docs/dial.md).

    Args:
        config: The config, whose scale is used.
        shape: The decoder; None omits the rule for shapes.
        tokens: The whole budget.
    """
    scale = config.scale
    if scale.factor == 1:
        return scale.learning_rate
    rate = scale.learning_rate
    if shape is not None:
        at_shape = rate_at_shape(1.0, shape.width, shape.depth, at_scale(scale.width, scale.factor), scale.depth)
        rate *= min(_SHAPE_LIMIT, max(1 / _SHAPE_LIMIT, at_shape))
    low, high = _BUDGET_LIMITS
    return rate_at_budget(rate, min(high, max(low, tokens / baseline_parameters(scale))))


def dial_decay(config: Config, shape: Shape, tokens: int) -> float:
    """Weight decay: the paper's at its scale, and the rule's below it.

    The rule uses the scale's rate and batch rather than the run's, so that decay is constant when rates or batches are
    compared. Budgets below the measured range are treated as its minimum.
    """
    scale, optimizer = config.scale, config.optimizer
    if scale.factor == 1 or optimizer.scaling.rate_sum is None:
        return optimizer.weight_decay
    steps = max(tokens, _BUDGET_LIMITS[0] * baseline_parameters(scale)) / scale.batch_tokens
    return decay_at_budget(optimizer.weight_decay, dial_rate(config, shape, tokens), steps, optimizer.scaling.rate_sum)


def dial_std(config: Config, shape: Shape) -> float:
    """Sigma of the random rules: the given one, or the paper's rule at this width."""
    scale = config.scale
    return std_at_width(scale.init_std, shape.width, at_scale(scale.width, 1)) if config.init.std is None else config.init.std
