"""Initial weights of a run by its ``init`` settings, and a record of their origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.own import check_causal
from tinylm_ablate.data.corpus import open_corpus
from tinylm_ablate.files import write_atomic
from tinylm_ablate.formats.huggingface import take_decoder
from tinylm_ablate.hardware import pick_device, thread_count
from tinylm_ablate.init.calibration import Calibration, loss_gradients, open_calibration
from tinylm_ablate.init.choice import mask_tokens, scores_marker
from tinylm_ablate.init.importance import make_importance, measures_layers, open_layers
from tinylm_ablate.init.inherit import inherit, open_scores
from tinylm_ablate.init.layer_choice import LayerChoice
from tinylm_ablate.init.masks import Target, open_masks
from tinylm_ablate.init.neurons import Scores, score
from tinylm_ablate.init.parents import Parent, open_parent
from tinylm_ablate.init.random import initialize
from tinylm_ablate.settled import Settled
from tinylm_ablate.tokenizer.vocabulary import Vocabulary


def initial_decoder(settled: Settled, vocabulary: Vocabulary) -> tuple[Decoder, dict[str, Any]]:
    """Return a decoder with the run's initial weights.

    Args:
        settled: The run; its trained parent, if any, must be finished.
        vocabulary: Its tokenizer, to select rows of the parent.

    Returns:
        The decoder in fp32 on the CPU, and a record of the random rule, or of the parent and the kept units.

    Raises:
        UserError: The parent cannot be inherited from.
        RunFailed: The loss of learned masks was not finite.
    """
    config, shape = settled.config, settled.shape
    if config.init.method == "random":
        decoder = Decoder(shape)
        initialize(decoder, settled.init, config.seed)
        check_causal(decoder, shape)
        return decoder, {"method": "random", "rule": config.init.rule, "std": settled.init_std}
    choice = _choose(settled, vocabulary)
    state, record = inherit(
        choice.parent, shape, vocabulary, settled.init, config.seed, layers=choice.layers, scores=choice.scores,
        weights=choice.weights,
    )  # fmt: skip
    record["neurons"] |= choice.found
    return take_decoder(state, shape), record


def make_scores(runs: Sequence[Settled], vocabulary: Vocabulary) -> None:
    """Compute and cache the scores of parents that the runs need to choose layers and neurons.

    Several parents are scored together, and masks of several children are learned together.

    Args:
        runs: Runs with the same criteria, from parents of one shape and tokenizer; their children have one depth.
        vocabulary: Their tokenizer.

    Raises:
        UserError: A parent cannot be inherited from.
        RunFailed: The loss of learned masks was not finite.
    """
    if len(runs) > 1:
        init, cache, device = runs[0].config.init, runs[0].cache, pick_device(runs[0].config.train.device)
        opened = [_open(run, vocabulary) for run in runs]
        parents = [parent for parent, _ in opened]
        calibration, *others = (open_text(tokens=init.calibration_tokens) for _, open_text in opened)
        if all(other.fingerprint == calibration.fingerprint for other in others):
            if measures_layers(parents[0], runs[0].shape.depth, init):
                make_importance(parents, calibration, cache, device)
            if init.criterion == "taylor":
                _taylor(parents, calibration, cache, device)
            if init.criterion == "learned":
                targets = [
                    Target(parent, run.shape, _layers(run, parent, calibration).layers)
                    for run, parent in zip(runs, parents, strict=True)
                ]
                text = opened[0][1](tokens=mask_tokens(runs[0]))
                open_masks(targets, text, init.masks, cache, runs[0].precision, device)
    for run in runs:
        choice = _choose(run, vocabulary)
        write_atomic(scores_marker(run), choice.parent.fingerprint)


@dataclass(frozen=True)
class _Choice:
    """Units to keep of a parent: layers, scores of its units, weights that replace its own (or None), and a record."""

    parent: Parent
    layers: LayerChoice
    scores: Scores
    weights: Mapping[str, Tensor] | None
    found: dict[str, Any]


def _open(settled: Settled, vocabulary: Vocabulary) -> tuple[Parent, Callable[..., Calibration]]:
    """Return the parent of a run, and a function that opens its calibration text of ``tokens`` tokens."""
    config, cache = settled.config, settled.cache
    reference = settled.parent.identity if settled.parent is not None else str(config.init.parent)
    parent = open_parent(reference, Path(config.runs_dir))
    # The text is not read until a criterion needs it.
    open_text = partial(
        open_calibration, parent, open_corpus(config.data, cache), vocabulary, context_length=config.train.context_length,
        cache_dir=cache,
    )  # fmt: skip
    torch.set_num_threads(thread_count(config.train.threads))
    return parent, open_text


def _choose(settled: Settled, vocabulary: Vocabulary) -> _Choice:
    config = settled.config
    parent, open_text = _open(settled, vocabulary)
    calibration = open_text(tokens=config.init.calibration_tokens)
    layers = _layers(settled, parent, calibration)
    if config.init.criterion == "learned":
        calibration = open_text(tokens=mask_tokens(settled))
    scores, weights, found = _scores(settled, parent, layers, calibration)
    return _Choice(parent, layers, scores, weights, found)


def _layers(settled: Settled, parent: Parent, calibration: Calibration) -> LayerChoice:
    device = pick_device(settled.config.train.device)
    return open_layers(parent, settled.shape.depth, settled.config.init, calibration, settled.cache, device)


def _scores(
    settled: Settled, parent: Parent, layers: LayerChoice, calibration: Calibration
) -> tuple[Scores, Mapping[str, Tensor] | None, dict[str, Any]]:
    """Return the scores of the parent's units by the run's criterion, weights that replace the parent's, and a record."""
    init, cache, device = settled.config.init, Path(settled.config.cache_dir), pick_device(settled.config.train.device)
    # Pooling keeps every unit, whatever its score.
    criterion = "l2" if init.method == "pool" else init.criterion
    found = {"calibration_tokens": calibration.sequences * calibration.context_length}
    if criterion == "learned":
        target = Target(parent, settled.shape, layers.layers)
        (masks,) = open_masks([target], calibration, init.masks, cache, settled.precision, device)
        summary = {name: value for name, value in masks.record.items() if name != "curve"}
        return masks.scores, masks.state, found | {"masks": summary}
    if criterion == "taylor":
        return _taylor([parent], calibration, cache, device)[0], None, found
    return open_scores([parent], criterion, cache)[0], None, {}


def _taylor(parents: Sequence[Parent], calibration: Calibration, cache: Path, device: str) -> list[Scores]:
    def compute(missing: Sequence[Parent]) -> list[Scores]:
        gradients = loss_gradients(missing, calibration, device)
        return [score(p.state, p.shape, "taylor", own) for p, own in zip(missing, gradients, strict=True)]

    return open_scores(parents, "taylor", cache, compute, calibration.fingerprint)
