"""Conversion of a config to the plain data of one run, and to its identity.

Settling resolves every 'auto', "N/s" and null, and collects all mistakes. Equivalent configs settle to the same values and
therefore to the same identity, however they were written.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinylm_ablate import extension, points
from tinylm_ablate.arch.shapes import OWN_BLOCKS, Shape, baseline_parameters, plain, resolve
from tinylm_ablate.budget import Rounds, branch_off, split_rounds
from tinylm_ablate.config import MAX_TOKENS, VALUE, Config, check_values, walk
from tinylm_ablate.data.corpus import text_fingerprint
from tinylm_ablate.data.mistakes import data_mistakes
from tinylm_ablate.data.sources import with_source
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.files import fingerprint
from tinylm_ablate.hardware import fast_bf16
from tinylm_ablate.measure.registry import OwnMeasure, measures
from tinylm_ablate.scale import at_scale, decay_at_budget, rate_at_budget, rate_at_shape, std_at_width
from tinylm_ablate.settled import Settled
from tinylm_ablate.tokenizer.train import MIN_VOCAB_SIZE
from tinylm_ablate.tokenizer.vocabularies import mistakes as vocabulary_mistakes
from tinylm_ablate.tokenizer.vocabularies import resolved_size, vocabulary_fingerprint
from tinylm_ablate.tracking.settings import tracking_mistakes

#: Maximum bytes of a name in common file systems.
LONGEST_NAME = 255

#: Version of the settings; increment it if the same settings give other results, so that older records are not reused.
IDENTITY_SCHEMA = 2

#: micro_batch=auto: maximum tokens per forward pass, so that the paper's scale fits a GPU.
_MICRO_TOKENS = 16_384

#: On CPUs with bf16 instructions, bf16 products save time from this width on; below it, the casts take more time than they
#: save (docs/LAB.md).
BF16_FROM_WIDTH = 32

#: evaluate.max_bytes=auto: a few sizes, so that similar budgets are measured on the same text.
AMOUNTS = (25_000, 50_000, 100_000, 200_000)

#: Maximum ratio of a shape's learning rate to the baseline's, and of the inverse; and range of tokens per parameter in which
#: the rule for budgets was measured.
_SHAPE_LIMIT, _BUDGET_LIMITS = 4.0, (2.0, 52.0)


def settle(config: Config) -> Settled:
    """Settle a config.

    A run of several rounds continues the run of all but its last (``previous``), so that arms that share their first rounds
    train them once.

    Raises:
        ConfigError: There are mistakes that can be found before any text is read; it lists all of them.
        UserError: The text or the tokenizer in the config cannot be found.
    """
    mistakes = check_values(config)
    broken = {mistake.split("=", 1)[0] for mistake in mistakes}
    untrained = not mistakes and config.init.train == "parent" and config.init.method != "random" and bool(config.init.parent)
    if untrained:
        config = _of_named_parent(config)

    def sound(*prefixes: str) -> bool:
        return not any(key.startswith(prefix) for key in broken for prefix in prefixes)

    for key, name in (("runs_dir", config.runs_dir), ("cache_dir", config.cache_dir)):
        if any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(name).parts):
            mistakes.append(f"{key}={name[:40]}…: allowed: folders whose names have at most {LONGEST_NAME} bytes")
            break
    if config.seeds is not None:
        mistakes.append(f"seeds={config.seeds}: an axis of a multirun: add -m, or set seed=")
    mistakes += data_mistakes(config.data) + tracking_mistakes(config.tracking) + _own_mistakes(config)
    vocab_size = source_vocab_size = 0
    if sound("tokenizer", "scale"):
        vocab_size, source_vocab_size, found = _vocabulary_sizes(config)
        mistakes += found
    shape = None
    if sound("tokenizer", "scale", "arch") and not any(m.startswith("tokenizer.") for m in mistakes):
        try:
            shape = resolve(config.arch, config.scale, vocab_size, _named_parent_shape(config))
        except ConfigError as error:
            mistakes += error.mistakes
    budget = None
    if sound("train", "scale", "optimizer"):
        budget, found = _budget(config, shape)
        mistakes += found
    if config.train.device == "cuda" and config.mode != "plan":
        import torch

        if not torch.cuda.is_available():
            mistakes.append("train.device=cuda: this machine has no such device; allowed: auto, cpu")
    if config.train.devices > 1 and sound("train"):
        mistakes += _devices_mistakes(config)
    if config.data.validation_share + config.data.test_share >= 0.9 and sound("data"):
        share = config.data.validation_share + config.data.test_share
        mistakes.append(f"data.test_share={config.data.test_share}: {share:.0%} with data.validation_share; allowed: under 90%")
    own_parent = config.init.method == "inherit" and config.init.parent is None
    if own_parent and config.init.parent_vocab_size is not None and config.tokenizer.kind == "file":
        mistakes.append(
            f"init.parent_vocab_size={config.init.parent_vocab_size}: allowed with tokenizer.kind=bpe or "
            "compact, or null; the number of entries of a file cannot be changed"
        )
    if config.init.train == "parent" and config.init.method == "random":
        mistakes.append("init.train=parent: init.method=random has no parent; allowed: child, or init.method=inherit or pool")
    if shape is not None and not shape.is_llama:
        named = {"evaluate.quantized": config.evaluate.quantized, "evaluate.decode.llama_cpp": config.evaluate.decode.llama_cpp}
        mistakes += [
            f"{key}=[{','.join(kinds)}]: arch.activations={shape.activations}, arch.shortcuts={shape.shortcuts} are not "
            "exported; allowed: []"
            for key, kinds in named.items()
            if kinds
        ]
    if config.rounds.forgetting and not config.train.keep_model:
        mistakes.append("rounds.forgetting=true: allowed with train.keep_model=true")
    rounds = None
    if budget is not None and sound("rounds"):
        rounds, found = split_rounds(config.rounds, budget.steps)
        mistakes += found
        if rounds is not None and untrained:
            rounds = dataclasses.replace(rounds, first=0, parts=(0,), drawn=(0,), horizon=0)
        if rounds is not None and config.train.anneal_from is not None:
            rounds, found = _branched(config, rounds)
            mistakes += found
        if rounds is not None and not untrained and sound("evaluate.every"):
            mistakes += _point_mistakes(config, rounds)
    if mistakes or shape is None or budget is None or rounds is None:
        raise ConfigError(mistakes)
    precision = config.train.precision
    if precision == "auto":
        precision = "bf16" if shape.width >= BF16_FROM_WIDTH and fast_bf16(config.train.device) else "fp32"
    config = _with_amounts(config, budget.tokens, rounds)
    text = text_fingerprint(config.data, Path(config.cache_dir))
    vocabulary = vocabulary_fingerprint(config.tokenizer, vocab_size, source_vocab_size, text)
    parent = _parent(config) if config.init.method != "random" and config.init.parent is None else None
    if config.init.train == "parent" and parent is not None:
        return parent
    if config.init.method != "random":
        _check_parent(config, shape, parent)
    settled = Settled(
        config=config, shape=shape, source_vocab_size=source_vocab_size, tokens=rounds.steps * config.train.batch_tokens,
        steps=rounds.steps, rounds=rounds, micro_batch=budget.micro_batch, accumulation=budget.accumulation,
        learning_rate=budget.learning_rate, weight_decay=dial_decay(config, shape, budget.tokens),
        init_std=dial_std(config, shape), precision=precision, parent=parent,
        previous=_trunk(config, rounds) if rounds.branch else None, keep_state=False, text=text,
        vocabulary=vocabulary, identity="",
    )  # fmt: skip
    return _named(settled)


def _point_mistakes(config: Config, rounds: Rounds) -> list[str]:
    """Return mistakes in the points along the run at which it is kept or measured."""
    train, evaluate = config.train, config.evaluate
    mistakes = [
        f"train.keep_checkpoints={list(train.keep_checkpoints)}: {place:g}; allowed: shares of the budget above 0 up to 1, or "
        "tokens within it"
        for place in train.keep_checkpoints
        if not (math.isfinite(place) and place > 0 and points.steps_at(place, rounds.steps, train.batch_tokens) <= rounds.steps)
    ]
    if evaluate.every is not None:
        distance = evaluate.every * rounds.steps * train.batch_tokens if evaluate.every <= 1 else evaluate.every
        if rounds.steps * train.batch_tokens / distance > points.MOST + 0.5:
            mistakes.append(f"evaluate.every={evaluate.every:g}: allowed: at most {points.MOST:,} measurements per run")
        own = [] if _own_mistakes(config) else [OwnMeasure(described) for described in evaluate.own]
        known = {measure.name for measure in (*measures(), *own) if measure.weights}
        mistakes += [
            f"evaluate.every_measures={list(evaluate.every_measures)}: {name}; allowed: {', '.join(sorted(known))}"
            for name in evaluate.every_measures
            if name not in known
        ]
    return mistakes


def _branched(config: Config, rounds: Rounds) -> tuple[Rounds | None, list[str]]:
    """Return start and end of the branch of ``train.anneal_from``; None with the mistakes."""
    train, optimizer = config.train, config.optimizer
    place = train.anneal_from
    assert place is not None
    steps = points.steps_at(place, rounds.steps, train.batch_tokens)
    before = rounds.steps
    if optimizer.schedule == "wsd":  # a branch cannot start during its decay
        before -= max(1, round(optimizer.decay_share * rounds.steps))
    mistakes = []
    if rounds.count > 1:
        mistakes.append(f"train.anneal_from={place:g}: allowed with rounds.count=1")
    if not steps <= before:
        mistakes.append(
            f"train.anneal_from={place:g}: step {steps:,} of {rounds.steps:,}; allowed: up to step {before:,}"
            + (", where the decay of schedule=wsd begins" if before < rounds.steps else "")
        )
    if optimizer.decay_share >= 1:
        mistakes.append(f"optimizer.decay_share={optimizer.decay_share:g}: allowed with train.anneal_from: below 1")
    return (None, mistakes) if mistakes else (branch_off(rounds, steps, optimizer.decay_share), [])


def _trunk(config: Config, rounds: Rounds) -> Settled:
    """The run that a branch leaves, which keeps its state there, and the models that the branch keeps before it begins."""
    trunk = copy.deepcopy(config)
    trunk.train.anneal_from = None
    trunk.train.keep_checkpoints = _kept_before(config, rounds.steps, rounds.branch - 1)
    trunk.train.keep_checkpoints.append(float(rounds.branch * config.train.batch_tokens))
    trunk.evaluate.every = None
    return settle(trunk)


def _kept_before(config: Config, steps: int, end: int) -> list[float]:
    """The places of ``train.keep_checkpoints`` in a run of ``steps`` steps that lie up to step ``end``, in tokens."""
    batch = config.train.batch_tokens
    kept = [points.steps_at(place, steps, batch) for place in config.train.keep_checkpoints]
    return [float(step * batch) for step in kept if step <= end]


def _of_named_parent(config: Config) -> Config:
    """Return the config of the external model in ``init.parent``: its shape and tokenizer, without training.

    Raises:
        UserError: The model does not exist, or has no tokenizer.
    """
    from tinylm_ablate.init.parents import open_parent

    parent = open_parent(str(config.init.parent), Path(config.runs_dir))
    config = copy.deepcopy(config)
    for name, value in plain(parent.shape).items():
        if name != "vocab_size":
            setattr(config.arch, name, value)
    source = parent.folder if parent.folder.suffix == ".gguf" else parent.folder / "tokenizer.json"
    config.tokenizer.kind, config.tokenizer.source = "file", str(source)
    config.init.method, config.init.criterion, config.init.layers = "inherit", "l2", "middle"
    config.seed = config.init.parent_seed
    config.rounds.count, config.rounds.forgetting = 1, False
    config.train.anneal_from, config.train.keep_checkpoints, config.evaluate.every = None, [], None
    return config


def _with_amounts(config: Config, tokens: int, rounds: Rounds) -> Config:
    """Return the config with the corpus for a budget, and with evaluation that takes about a third of the training time."""
    evaluate = config.evaluate
    most = max((size for size in AMOUNTS if 2 * size <= tokens), default=AMOUNTS[0])
    sizes = most if evaluate.max_bytes == "auto" else evaluate.max_bytes
    questions = max(50, most // 1000) if evaluate.cloze_questions == "auto" else evaluate.cloze_questions
    config = copy.copy(config)
    config.data = with_source(config.data, tokens)
    every_bytes = evaluate.every_bytes
    if every_bytes == "auto":
        times = len(points.evaluated(evaluate.every, 0, rounds.steps, config.train.batch_tokens)) or 1
        every_bytes = min(int(sizes), max(points.LEAST_BYTES, int(sizes) // times))
    config.evaluate = dataclasses.replace(evaluate, max_bytes=sizes, cloze_questions=questions, every_bytes=every_bytes)
    return config


def _named(settled: Settled) -> Settled:
    """Return the run with its previous rounds and its identity."""
    rounds = settled.rounds
    if rounds.count > 1:
        before = rounds.before()
        config = copy.deepcopy(settled.config)
        config.rounds.count, config.rounds.forgetting, config.train.keep_model = before.count, False, True
        config.train.keep_checkpoints = _kept_before(config, settled.steps, before.steps)
        config.evaluate.every = None
        previous = dataclasses.replace(
            settled, config=config, steps=before.steps, tokens=before.steps * config.train.batch_tokens, rounds=before,
            keep_state=rounds.schedule != "rewarm",
        )  # fmt: skip
        settled = dataclasses.replace(settled, previous=_named(previous))
    return dataclasses.replace(settled, identity=fingerprint(meaning(settled)))


def meaning(settled: Settled) -> dict[str, Any]:
    """Return everything that can change a run's weights, as plain data: the content of its identity.

    The definitions in ``tinylm_ablate.config`` determine which keys enter, and how.
    """
    config = settled.config
    values = {
        key: value
        for key, value, rule in walk(config)
        if rule["identity"] == VALUE and (rule.get("active") is None or rule["active"](config))
    }
    for key in OWN_PARTS:
        if key in values:
            values[key] = extension.normal(values[key], key)
    shape = plain(settled.shape)
    if not settled.shape.shortcuts:
        del shape["shortcut_ratio"]
    if not settled.steps:
        return {
            "schema": IDENTITY_SCHEMA, "untrained": _reference_fingerprint(config), "shape": shape, "text": settled.text,
            "vocabulary": settled.vocabulary,
        }  # fmt: skip
    if config.init.method != "random":
        values["init.parent"] = settled.parent.identity if settled.parent else _reference_fingerprint(config)
    return {
        "schema": IDENTITY_SCHEMA,
        "values": values,
        "text": settled.text,
        "vocabulary": settled.vocabulary,
        "shape": shape,
        "rounds": settled.rounds.meaning(),
        "steps": settled.steps,
        "micro_batch": settled.micro_batch,
        "accumulation": settled.accumulation,
        "learning_rate": settled.learning_rate,
        "weight_decay": settled.weight_decay,
        "init_std": settled.init_std,
        "precision": settled.precision,
    }


def _vocabulary_sizes(config: Config) -> tuple[int, int, list[str]]:
    """Return sizes of the vocabulary and of the larger one it is cut from; "N/s" is raised to the minimum for bytes."""
    tokenizer, factor = config.tokenizer, config.scale.factor
    size, source = (at_scale(n, factor, MIN_VOCAB_SIZE) for n in (tokenizer.vocab_size, tokenizer.source_vocab_size))
    mistakes = vocabulary_mistakes(tokenizer, size, source)
    if not mistakes:
        size = resolved_size(tokenizer, size)
    return size, source, mistakes


@dataclass(frozen=True)
class _Budget:
    """Return tokens before ``train.share``, steps of the first round, micro batches, and the peak learning rate."""

    tokens: int
    steps: int
    micro_batch: int
    accumulation: int
    learning_rate: float


def _budget(config: Config, shape: Shape | None) -> tuple[_Budget, list[str]]:
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
    return _Budget(whole, steps, micro_batch, max(1, sequences // micro_batch), rate), mistakes


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


#: Keys of user-defined parts that change weights, and their required attributes.
OWN_PARTS = {
    "optimizer.own": ("keeps", "update"), "optimizer.own_schedule": ("factor",), "init.own": ("standard_deviation",),
}  # fmt: skip


def _own_mistakes(config: Config) -> list[str]:
    """Return mistakes in user-defined parts; those of ``data`` are checked with it."""
    optimizer, init = config.optimizer, config.init
    given = (
        ("optimizer.own", optimizer.own, optimizer.name == "own", "optimizer.name=own"),
        ("optimizer.own_schedule", optimizer.own_schedule, optimizer.schedule == "own", "optimizer.schedule=own"),
        ("init.own", init.own, init.rule == "own" and init.method == "random", "init.rule=own"),
    )
    mistakes = [
        mistake
        for key, described, chosen, choice in given
        for mistake in extension.mistakes(described, key, chosen, choice, OWN_PARTS[key])
    ]
    if init.method != "random":
        mistakes += [
            f"arch.{name}: allowed with init.method=random; user-defined blocks cannot inherit weights"
            for name in OWN_BLOCKS
            if getattr(config.arch, name)
        ]
    for described in config.evaluate.own:
        mistakes += extension.mistakes(described, "evaluate.own", True, "evaluate.own", ("name", "weights", "measure"))
    return mistakes


def _devices_mistakes(config: Config) -> list[str]:
    train = config.train
    mistakes = []
    if (train.batch_tokens // train.context_length) % train.devices:
        sequences = train.batch_tokens // train.context_length
        mistakes.append(f"train.devices={train.devices}: allowed: a divisor of the {sequences} sequences of a batch")
    if train.device == "mps":
        mistakes.append(f"train.devices={train.devices}: allowed with train.device=cpu or cuda")
    if train.strategy == "fsdp" and config.optimizer.name != "adamw":
        mistakes.append(
            f"train.strategy=fsdp: allowed with optimizer=adamw; optimizer={config.optimizer.name} needs complete weights"
        )
    if train.device != "cpu" and config.mode != "plan":
        import torch

        found = torch.cuda.device_count()
        if torch.cuda.is_available() and found < train.devices:
            mistakes.append(
                f"train.devices={train.devices}: allowed: up to the {found} GPUs of this machine, or train.device=cpu"
            )
    return mistakes


def _parent(config: Config) -> Settled:
    """Return the run that trains the parent, on the same text and with the same recipe.

    For inheritance, it has the paper's 7B proportions (29 layers, width 4096) at this scale, once for all seeds of a grid. For
    pooling (Table 10), it is the same model with one key-value head per head, once per seed. Its default learning rate follows
    its own shape, so that children with different rates share a parent.
    """
    parent = copy.deepcopy(config)
    arch, init = parent.arch, parent.init
    arch.kv_heads = "auto"
    if init.method == "inherit":
        arch.depth, arch.width, arch.ffn_width = init.parent_depth, init.parent_width, init.parent_ffn_width
        arch.activations, arch.shortcuts = (
            1,
            0,
        )  # the child's modules are new, and initially compute Llama's function (init.inherit)
        parent.seed = init.parent_seed
        if init.parent_vocab_size is not None:
            parent.tokenizer.vocab_size = init.parent_vocab_size
        if init.parent_tokens is not None:
            parent.train.tokens = init.parent_tokens
        if init.std is not None:
            init.std /= math.sqrt(
                at_scale(init.parent_width, config.scale.factor) / at_scale(config.scale.width, config.scale.factor)
            )
    parent.optimizer.scaling.base_lr = init.parent_lr
    parent.train.share = 1.0
    parent.train.keep_checkpoints, parent.evaluate.every = [], None
    parent.rounds.count, parent.rounds.forgetting = 1, False
    init.method, init.train = "random", "child"
    parent.train.keep_model = True
    try:
        return settle(parent)
    except ConfigError as error:
        raise ConfigError([f"in the parent of init.method={config.init.method}: {m}" for m in error.mistakes]) from None


def _named_parent_shape(config: Config) -> Shape | None:
    """Return the shape of the model in ``init.parent``, which resolves "auto" in the group ``arch``; None without one."""
    from tinylm_ablate.init.parents import open_parent

    if config.init.method == "random" or config.init.parent is None:
        return None
    return open_parent(config.init.parent, Path(config.runs_dir)).shape


def _check_parent(config: Config, child: Shape, parent: Settled | None) -> None:
    """Refuse a child that does not fit its parent."""
    from tinylm_ablate.init.compatible import check_shapes
    from tinylm_ablate.init.parents import check_parent, open_parent
    from tinylm_ablate.init.pool import check_pool

    if parent is not None:
        shape, mistakes = parent.shape, check_shapes(parent.shape, child)
    else:
        opened = open_parent(str(config.init.parent), Path(config.runs_dir))
        shape, mistakes = opened.shape, check_parent(opened, child, config.train.context_length)
        if config.init.method == "inherit" and (opened.vocabulary is None or not opened.vocabulary.encodes):
            mistakes += _uncalibrated(config)
    if config.init.method == "pool":
        mistakes = list(dict.fromkeys([*mistakes, *check_pool(shape, child)]))
    if mistakes:
        raise ConfigError(mistakes)


def _uncalibrated(config: Config) -> list[str]:
    """Return settings that require text in the tokens of a parent whose tokenizer is incomplete."""
    init = config.init
    settings = (
        ("init.criterion", init.criterion, ("taylor", "learned"), "l1, l2, random"),
        ("init.layers", init.layers, ("importance",), "middle, even, or a list"),
    )
    return [
        f"{key}={value}: needs text, but the pre-tokenization of init.parent={init.parent} is not supported; "
        f"allowed: {others}, or the model as a folder with its tokenizer.json"
        for key, value, reading, others in settings
        if value in reading
    ]


def _reference_fingerprint(config: Config) -> str:
    from tinylm_ablate.init.parents import open_parent

    return open_parent(str(config.init.parent), Path(config.runs_dir)).fingerprint
