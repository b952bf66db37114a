"""Check that a child can be cut out of a parent of another shape.

Nothing here imports torch, so that checking a grid is fast.
"""

from __future__ import annotations

from tinylm_ablate.arch.shapes import Shape


def check_shapes(parent: Shape, child: Shape) -> list[str]:
    """Return reasons why ``child`` cannot be cut from ``parent``, one line each; depth and vocabulary may always differ."""
    mistakes = [
        f"arch.{key}={wanted}: the child's {words}, more than the parent's {available}"
        for key, words, wanted, available in (
            ("width", "channels", child.width, parent.width),
            ("ffn_width", "FFN neurons", child.ffn_width, parent.ffn_width),
        )
        if wanted > available
    ]
    if child.head_dim != parent.head_dim:
        mistakes.append(f"arch.head_dim={child.head_dim}: heads are inherited whole; allowed: the parent's {parent.head_dim}")
    elif child.heads > parent.heads:
        mistakes.append(f"arch.width={child.width}: results in {child.heads} heads, more than the parent's {parent.heads}")
    if child.tied and not parent.tied:
        mistakes.append("arch.tied=true: the parent's head is a separate matrix; use arch.tied=false")
    mistakes += [
        f"arch.{key}={getattr(child, key)}: the parent was trained with {getattr(parent, key)}; allowed: auto, for the parent's"
        for key in ("rope_theta", "rope_scaling", "norm_eps")
        if getattr(child, key) != getattr(parent, key)
    ]
    for key, what in (("qkv_bias", "biases of queries, keys and values"), ("qk_norm", "norms of queries and keys")):
        has, wanted = getattr(parent, key), getattr(child, key)
        if has != wanted:
            reason = f"the parent has {what} and needs them" if has else f"the parent has no {what}"
            mistakes.append(f"arch.{key}={str(wanted).lower()}: {reason}; use arch.{key}={str(has).lower()}")
    mistakes += _check_pangu(parent, child)
    return mistakes


def _check_pangu(parent: Shape, child: Shape) -> list[str]:
    """Check that PanGu-pi's modules are either new in the child or inherited as a whole from the parent."""
    if parent.is_llama:
        return []
    fields = ("activations", "shortcuts", "shortcut_ratio", "width", "ffn_width")
    differing = [field for field in fields if getattr(parent, field) != getattr(child, field)]
    if not parent.shortcuts and "shortcut_ratio" in differing:
        differing.remove("shortcut_ratio")
    return [
        f"arch.{field}={getattr(child, field)}: the parent has PanGu-pi's modules, inherited as a whole; allowed: the "
        f"parent's {getattr(parent, field)}"
        for field in differing
    ]
