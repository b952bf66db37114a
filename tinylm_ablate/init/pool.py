"""Grouped-query attention out of multi-head attention (Appendix A, Table 10): key and value heads become group means.

The paper mean-pools the key and value heads of a trained model in each of 8 groups and then continues training; the method is
that of Ainslie et al. 2023 (arXiv 2305.13245). Query heads and the output projection stay as they are. Rotary embedding
turns every head alike, so the mean of keys before it is the mean of keys after it. Biases are pooled as their rows are. A norm
of keys is left as it is; what is pooled are the keys before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from tinylm_ablate.arch.shapes import Shape


def mean_heads(weight: Tensor, head_dim: int, group: int) -> Tensor:
    """The mean of each ``group`` neighboring heads.

    Args:
        weight: (heads * head_dim, inputs), the rows of a key or value projection, or (heads * head_dim,), its bias.
        head_dim: Rows of one head.
        group: How many heads become one; divides their number.

    Returns:
        The same with heads / group heads, of the same type; the mean itself is taken in single precision at least.
    """
    if group == 1:
        return weight
    heads = weight.shape[0] // head_dim
    stacked = weight.reshape(heads // group, group, head_dim, *weight.shape[1:])
    wide = stacked if stacked.element_size() >= 4 else stacked.float()
    return wide.mean(1).flatten(0, 1).to(weight.dtype)


def check_pool(parent: Shape, child: Shape) -> list[str]:
    """Reasons why ``child`` is not ``parent`` with fewer key-value heads, one line each."""
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
