"""Grouped-query attention from multi-head attention (Appendix A, Table 10): key and value heads become group means.

The paper mean-pools the key and value heads of a trained model in each of 8 groups and then continues training; the method is
from Ainslie et al. 2023 (arXiv 2305.13245). Query heads and the output projection are unchanged. The rotary embedding rotates
every head equally, so pooling keys before or after it is the same. Biases are pooled like their rows. A norm of keys is
unchanged; the keys before it are pooled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tinylm_ablate.arch.shapes import Shape


def mean_heads(weight: Tensor, head_dim: int, group: int) -> Tensor:
    """Average each group of ``group`` adjacent heads.

    Args:
        weight: (heads * head_dim, inputs), the rows of a key or value projection, or (heads * head_dim,), its bias.
        head_dim: Rows per head.
        group: Heads per group; divides the number of heads.

    Returns:
        The weight with heads / group heads, of the same type; the mean is computed at least in single precision.
    """
    if group == 1:
        return weight
    heads = weight.shape[0] // head_dim
    stacked = weight.reshape(heads // group, group, head_dim, *weight.shape[1:])
    wide = stacked if stacked.element_size() >= 4 else stacked.float()
    return wide.mean(1).flatten(0, 1).to(weight.dtype)


def check_pool(parent: Shape, child: Shape) -> list[str]:
    """Return reasons why ``child`` is not ``parent`` with fewer key-value heads, one line each."""
    sizes = {key: (getattr(parent, key), getattr(child, key)) for key in ("depth", "width", "ffn_width", "head_dim", "tied")}
    mistakes = [
        f"arch.{key}={wanted}: init.method=pool changes key-value heads only; allowed: the parent's {available}"
        for key, (available, wanted) in sizes.items()
        if wanted != available
    ]
    if parent.kv_heads % child.kv_heads:
        mistakes.append(_not_a_divisor(parent.kv_heads, child.kv_heads))
    return mistakes


def _not_a_divisor(available: int, wanted: int) -> str:
    divisors = ", ".join(str(number) for number in range(1, available + 1) if available % number == 0)
    return f"arch.kv_heads={wanted}: pooled from the parent's {available}; allowed: {divisors}"
