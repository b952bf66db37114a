"""The four random rules (Section 3.1 and Appendix B; Tables 4 and 11), and the standard deviation of each matrix (Fig. 11).

Every matrix is drawn from N(0, std^2); the rules differ only in std, with sigma = ``init.std``:

- constant: sigma everywhere.
- gpt2: sigma / sqrt(N) in all matrices of all layers, with N the number of residual layers. As in GPT-2, we count two per
  layer, attention and FFN, so that N = 2 * depth.
- internlm: sigma / sqrt(N), the same N, in the output projection of attention and in the FFN's gate, as the paper states;
  sigma elsewhere. (InternLM's own code divides by the index of the layer instead of N.)
- depthwise: q and k decrease from sqrt(2) * sigma in the first layer to sigma in the last; v and the output projection increase
  from sigma / sqrt(2) to sigma; the FFN has sigma. The paper does not state the values in between; ours are linear in the
  standard deviation. A single layer has the values of the first.

Embedding and head have sigma under every rule, norms are 1. The paper does not state sigma; 0.02 fits its Fig. 11.

PanGu-pi's modules, whose initialization neither paper describes, start close to Llama's block: the first term of a series
activation has scale 1 and shift 0; the others have shift 0 and scales from N(0, sigma^2), drawn per neuron so that no two terms
are equal, and the initial sum is silu(x) up to order sigma. The matrices of a shortcut follow the rule like other matrices
of the layer (gpt2 scales them, the others do not).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from typing import Protocol, cast

import torch
from torch import Tensor

from tinylm_ablate.arch.decoder import Attention, Decoder
from tinylm_ablate.arch.layers import Matrix
from tinylm_ablate.arch.pangu import SeriesActivation
from tinylm_ablate.arch.shapes import matrices
from tinylm_ablate.config import InitConfig
from tinylm_ablate.extension import part


def initialize(decoder: Decoder, init: InitConfig, seed: int) -> None:
    """Draw all weights of ``decoder`` in place by ``init.rule`` and ``init.std``.

    The values of a matrix depend only on the seed and its name: not on PyTorch's global generator, the number of threads, the
    device, the precision (beyond rounding) or other matrices. Two rules with one seed differ only in scale.
    """
    shape = decoder.shape
    with torch.no_grad():
        for norm in (decoder.norm, *(part for layer in decoder.blocks for part in (layer.attention_norm, layer.ffn_norm))):
            norm.weight.fill_(1.0)
        for attention in (layer.attention for layer in decoder.blocks if isinstance(layer.attention, Attention)):
            for head_norm in (attention.q_norm, attention.k_norm):
                if head_norm is not None:
                    head_norm.weight.fill_(1.0)
            if attention.qkv.bias is not None:
                attention.qkv.bias.zero_()
        draw(decoder.embedding.weight, init.sigma, seed, "embedding")
        if decoder.head is not None:
            draw(decoder.head.weight, init.sigma, seed, "head")
        for index, name, weight in layer_matrices(decoder):
            draw(weight, _std(init, name, index, shape.depth), seed, f"{index}.{name}")
        if shape.activations > 1:
            for index, layer in enumerate(decoder.blocks):
                activation = layer.ffn.activation
                assert isinstance(activation, SeriesActivation)
                scales = activation.scales.view(shape.activations, -1)
                draw(scales, init.sigma, seed, f"{index}.scales")
                scales[0].fill_(1.0)
                activation.shifts.zero_()


class OwnRule(Protocol):
    """Interface of a user-defined random rule: a dataclass with this method."""

    def standard_deviation(self, sigma: float, matrix: str, layer: int, depth: int) -> float:
        """Return the standard deviation of one matrix; the arguments are those of ``standard_deviation``."""


def _std(init: InitConfig, matrix: str, layer: int, depth: int) -> float:
    if init.rule == "own":
        own: OwnRule = part(init.own, "init.own")
        return own.standard_deviation(init.sigma, matrix, layer, depth)
    return standard_deviation(init.rule, init.sigma, matrix, layer, depth)


def standard_deviation(rule: str, sigma: float, matrix: str, layer: int, depth: int) -> float:
    """Return the standard deviation of one matrix under a rule.

    Args:
        rule: "constant", "gpt2", "internlm" or "depthwise".
        sigma: The rule's sigma.
        matrix: q, k, v, out, gate, up, down, shortcut_down or shortcut_up.
        layer: Index from 0.
        depth: Layers.
    """
    residual = 1 / math.sqrt(2 * depth)
    depthwise = layer / (depth - 1) if depth > 1 else 0.0
    match rule, matrix:
        case ("gpt2", _) | ("internlm", "out" | "gate"):
            return sigma * residual
        case "depthwise", "q" | "k":
            return sigma * (math.sqrt(2) + (1 - math.sqrt(2)) * depthwise)
        case "depthwise", "v" | "out":
            return sigma * (math.sqrt(0.5) + (1 - math.sqrt(0.5)) * depthwise)
        case "constant" | "internlm" | "depthwise", _:
            return sigma
    raise ValueError(f"unknown random rule {rule!r}")


def matrix_std(decoder: Decoder) -> list[dict[str, int | str | float]]:
    """Standard deviation of each matrix about its mean, one row per matrix: layer, matrix, std. The points of Fig. 11."""
    with torch.no_grad():
        return [
            {"layer": layer, "matrix": name, "std": float(weight.float().std(correction=0))}
            for layer, name, weight in layer_matrices(decoder)
        ]


def layer_matrices(decoder: Decoder) -> Iterator[tuple[int, str, Tensor]]:
    """Yield each matrix of each layer (layer, name, view of its rows), as a slice of the stacked ones."""
    table = matrices(decoder.shape)
    for index, layer in enumerate(decoder.blocks):
        for stored, parts in table.items():
            matrix = cast(Matrix, layer.get_submodule(stored))
            slices = torch.split(matrix.weight, [rows for rows, _ in parts.values()])
            for name, weight in zip(parts, slices, strict=True):
                yield index, name, weight


def draw(weight: Tensor, std: float, seed: int, name: str) -> None:
    """Fill with N(0, std^2), drawn in fp32 on the CPU by a generator seeded with ``seed`` and ``name``."""
    key = hashlib.sha256(f"{seed} {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "little", signed=True))
    weight.copy_(torch.empty(weight.shape).normal_(0.0, std, generator=generator))
