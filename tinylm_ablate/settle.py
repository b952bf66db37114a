"""Conversion of a config to the plain data of one run, and to its identity.

Settling resolves every 'auto', "N/s" and null, and collects all mistakes. Equivalent configs settle to the same values and
therefore to the same identity, however they were written.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from pathlib import Path
from typing import Any

from tinylm_ablate import extension, points
from tinylm_ablate.arch.shapes import Shape, plain, resolve
from tinylm_ablate.budget import Rounds, branch_off, split_rounds
from tinylm_ablate.config import VALUE, Config
from tinylm_ablate.config_values import check_values, walk
from tinylm_ablate.conflicts import OWN_PARTS, conflicts, own_mistakes, point_mistakes
from tinylm_ablate.data.corpus import text_fingerprint
from tinylm_ablate.data.mistakes import data_mistakes
from tinylm_ablate.data.sources import with_source
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.files import fingerprint
from tinylm_ablate.hardware import fast_bf16
from tinylm_ablate.recipe import budget_of, dial_decay, dial_std
from tinylm_ablate.scale import at_scale
from tinylm_ablate.settled import Settled
from tinylm_ablate.tokenizer.train import MIN_VOCAB_SIZE
from tinylm_ablate.tokenizer.vocabularies import mistakes as vocabulary_mistakes
from tinylm_ablate.tokenizer.vocabularies import resolved_size, vocabulary_fingerprint
from tinylm_ablate.tracking.settings import tracking_mistakes

#: Maximum bytes of a name in common file systems.
LONGEST_NAME = 255

#: Version of the settings; increment it if the same settings give other results, so that older records are not reused.
IDENTITY_SCHEMA = 2

#: On CPUs with bf16 instructions, bf16 products save time from this width on; below it, the casts take more time than they
#: save (docs/LAB.md).
BF16_FROM_WIDTH = 32

#: evaluate.max_bytes=auto: a few sizes, so that similar budgets are measured on the same text.
AMOUNTS = (25_000, 50_000, 100_000, 200_000)


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
    mistakes += data_mistakes(config.data) + tracking_mistakes(config.tracking) + own_mistakes(config)
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
        budget, found = budget_of(config, shape)
        mistakes += found
    mistakes += conflicts(config, shape, sound)
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
            mistakes += point_mistakes(config, rounds)
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
    """Return the run that a branch leaves: it keeps its state there, and the requested models before the branch."""
    trunk = copy.deepcopy(config)
    trunk.train.anneal_from = None
    trunk.train.keep_checkpoints = _kept_before(config, rounds.steps, rounds.branch - 1)
    trunk.train.keep_checkpoints.append(float(rounds.branch * config.train.batch_tokens))
    trunk.evaluate.every = None
    return settle(trunk)


def _kept_before(config: Config, steps: int, end: int) -> list[float]:
    """Return the places of ``train.keep_checkpoints`` in a run of ``steps`` steps up to step ``end``, in tokens."""
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
