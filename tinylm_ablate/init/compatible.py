"""Whether a child can be cut out of a parent of another shape.

Nothing here imports torch, so that a grid is checked in an instant.
"""

from __future__ import annotations

from tinylm_ablate.arch.shapes import Shape


def check_shapes(parent: Shape, child: Shape) -> list[str]:
    """Why ``child`` cannot be cut from ``parent``, one line a reason; depth and vocabulary never stand in the way."""
    mistakes = [
        f"arch.{key}={wanted}: the child's {words}, more than the parent's {available}"
        for key, words, wanted, available in (
            ("width", "channels", child.width, parent.width),
            ("ffn_width", "FFN neurons", child.ffn_width, parent.ffn_width),
        )
        if wanted > available
    ]
    if child.head_dim != parent.head_dim:
        mistakes.append(f"arch.head_dim={child.head_dim}: heads are inherited whole, and the parent's have {parent.head_dim}")
    elif child.heads > parent.heads:
        mistakes.append(f"arch.width={child.width}: that is {child.heads} heads, more than the parent's {parent.heads}")
    if child.tied and not parent.tied:
        mistakes.append("arch.tied=true: the parent's head is a matrix of its own; use arch.tied=false")
    if child.rope_theta != parent.rope_theta:
        mistakes.append(f"arch.rope_theta={child.rope_theta:g}: the parent's heads were trained with {parent.rope_theta:g}")
    for key, what in (("qkv_bias", "biases of queries, keys and values"), ("qk_norm", "norms of queries and keys")):
        has, wanted = getattr(parent, key), getattr(child, key)
        if has != wanted:
            reason = f"the parent has {what}, and does not work without them" if has else f"the parent has no {what}"
            mistakes.append(f"arch.{key}={str(wanted).lower()}: {reason}; use arch.{key}={str(has).lower()}")
    for who, shape in (("parent", parent), ("child", child)):
        if not shape.is_llama:
            mistakes.append(
                f"arch.activations={shape.activations}, arch.shortcuts={shape.shortcuts}: inheritance covers Llama's blocks "
                f"only (1 and 0), and the {who} has others"
            )
    return mistakes
