"""Mistakes in combinations of settings, which the rules of single settings cannot find."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from tinylm_ablate import extension, points
from tinylm_ablate.arch.shapes import OWN_BLOCKS, Shape
from tinylm_ablate.budget import Rounds
from tinylm_ablate.config import Config
from tinylm_ablate.measure.registry import OwnMeasure, measures

#: Keys of user-defined parts that change weights, and their required attributes.
OWN_PARTS = {
    "optimizer.own": ("keeps", "update"), "optimizer.own_schedule": ("factor",), "init.own": ("standard_deviation",),
}  # fmt: skip


def conflicts(config: Config, shape: Shape | None, sound: Callable[..., bool]) -> list[str]:
    """Return mistakes in devices, shares of the text, parents, exports and rounds.

    Args:
        config: The config.
        shape: The decoder; None if unknown.
        sound: Returns whether the single settings of a group are valid.
    """
    mistakes = [*_folder_mistakes("runs_dir", config.runs_dir), *_folder_mistakes("cache_dir", config.cache_dir)]
    if config.train.device == "cuda" and config.mode not in ("status", "coverage"):  # a plan measures speed and memory there
        import torch

        if not torch.cuda.is_available():
            mistakes.append("train.device=cuda: this machine has no such device; allowed: auto, cpu, or a machine with a GPU")
    if config.arch.parameters != "auto" and config.arch.width != "auto" and sound("arch"):
        mistakes.append(f"arch.parameters={config.arch.parameters}: allowed with arch.width=auto, which is solved for it")
    if config.train.devices > 1 and sound("train"):
        mistakes += _device_mistakes(config)
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
    return mistakes


def _folder_mistakes(key: str, value: str) -> list[str]:
    """Return mistakes in a folder that is created if it does not exist."""
    for place in (path := Path(value), *path.parents):
        if place.is_dir():
            break
        if place.exists():
            return [f"{key}={value}: {place} is a file; allowed: a folder, which is created if it does not exist"]
        if place.is_symlink():
            return [f"{key}={value}: {place} is a link to {place.readlink()}, which does not exist"]
    return []


def point_mistakes(config: Config, rounds: Rounds) -> list[str]:
    """Return mistakes in the points along the run at which it is kept or measured, and in the choice of measures."""
    train, evaluate = config.train, config.evaluate
    mistakes = [
        f"train.keep_checkpoints={list(train.keep_checkpoints)}: {place:g}; allowed: shares of the budget above 0 up to 1, or "
        "tokens within it"
        for place in train.keep_checkpoints
        if not (math.isfinite(place) and place > 0 and points.steps_at(place, rounds.steps, train.batch_tokens) <= rounds.steps)
    ]
    if evaluate.measures:
        mistakes += _unknown(config, "measures", evaluate.measures)
    if evaluate.every is not None:
        distance = evaluate.every * rounds.steps * train.batch_tokens if evaluate.every <= 1 else evaluate.every
        if rounds.steps * train.batch_tokens / distance > points.MOST + 0.5:
            mistakes.append(f"evaluate.every={evaluate.every:g}: allowed: at most {points.MOST:,} measurements per run")
        mistakes += _unknown(config, "every_measures", evaluate.every_measures, weights=True)
    return mistakes


def _unknown(config: Config, key: str, names: Sequence[str], weights: bool = False) -> list[str]:
    """Return mistakes: names in ``evaluate.<key>`` that no measure has, or none that needs ``weights``."""
    own = [] if own_mistakes(config) else [OwnMeasure(described) for described in config.evaluate.own]
    known = {measure.name for measure in (*measures(), *own) if measure.weights or not weights}
    allowed = ", ".join(sorted(known))
    return [f"evaluate.{key}={list(names)}: {name}; allowed: {allowed}" for name in names if name not in known]


def own_mistakes(config: Config) -> list[str]:
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


def _device_mistakes(config: Config) -> list[str]:
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
