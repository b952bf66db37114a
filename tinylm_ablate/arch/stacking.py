"""Decoders of one shape as one decoder of several runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape


def decoder_over(shape: Shape, runs: int | None, weights: Mapping[str, Tensor]) -> Decoder:
    """A decoder of R runs, or of one, whose parameters are the given tensors themselves, by name."""
    with torch.device("meta"):
        decoder = Decoder(shape, runs)
    for name, _ in list(decoder.named_parameters()):
        owner, _, own = name.rpartition(".")
        setattr(decoder.get_submodule(owner), own, nn.Parameter(weights[name]))
    return decoder


def stacked(decoders: Sequence[Decoder]) -> Decoder:
    """One decoder with copies of the weights of R decoders of one shape, on their device."""
    states = [dict(decoder.named_parameters()) for decoder in decoders]
    with torch.no_grad():
        weights = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    decoder = decoder_over(decoders[0].shape, len(decoders), weights)
    decoder.stream = decoders[0].stream
    return decoder.train(decoders[0].training)
