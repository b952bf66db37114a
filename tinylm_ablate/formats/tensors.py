"""Tensors of Llama and Qwen models under Hugging Face's names, and the axes that couple them.

Nothing here imports torch, so that checking a grid is fast.
"""

from __future__ import annotations

from tinylm_ablate.arch.shapes import Shape, own_matrices

EMBEDDING = "model.embed_tokens.weight"
NORM = "model.norm.weight"
HEAD = "lm_head.weight"

#: The tensors of a Llama layer, with the axes of their rows and columns.
PARTS: dict[str, tuple[str, ...]] = {
    "input_layernorm": ("width",),
    "self_attn.q_proj": ("heads", "width"),
    "self_attn.k_proj": ("kv_heads", "width"),
    "self_attn.v_proj": ("kv_heads", "width"),
    "self_attn.o_proj": ("width", "heads"),
    "post_attention_layernorm": ("width",),
    "mlp.gate_proj": ("ffn", "width"),
    "mlp.up_proj": ("ffn", "width"),
    "mlp.down_proj": ("width", "ffn"),
}


_BIASES: dict[str, tuple[str, ...]] = {
    "self_attn.q_proj.bias": ("heads",),
    "self_attn.k_proj.bias": ("kv_heads",),
    "self_attn.v_proj.bias": ("kv_heads",),
}
_HEAD_NORMS: dict[str, tuple[str, ...]] = {"self_attn.q_norm": ("head_dim",), "self_attn.k_norm": ("head_dim",)}


def layer_parts(shape: Shape) -> dict[str, tuple[str, ...]]:
    """Return the tensors of a layer: ``PARTS``, and the shape's biases and norms of queries and keys.

    A bias belongs to the same head as the corresponding row. The axis "head_dim" of a norm is shared by all heads of a layer
    and never cut.
    """
    parts = PARTS | (_BIASES if shape.qkv_bias else {}) | (_HEAD_NORMS if shape.qk_norm else {})
    replaced = tuple(module for own, module in ((shape.own_attention, "self_attn."), (shape.own_ffn, "mlp.")) if own)
    return {name: axes for name, axes in parts.items() if not name.startswith(replaced)} if replaced else parts


def own_parts(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a layer that Llama does not have, with their sizes, under our names.

    These are the tensors of PanGu-pi and of user-defined blocks.
    """
    inner = shape.shortcuts * shape.shortcut_width
    terms = (shape.activations * shape.ffn_width,)
    shortcuts: dict[str, tuple[int, ...]] = {
        "shortcuts.down.weight": (inner, shape.width),
        "shortcuts.up.weight": (shape.width, inner),
    }
    activation: dict[str, tuple[int, ...]] = {"ffn.activation.scales": terms, "ffn.activation.shifts": terms}
    found = (shortcuts if shape.shortcuts else {}) | (activation if shape.activations > 1 else {})
    for block, name in (("attention", "own_attention"), ("ffn", "own_ffn")):
        found |= {f"{block}.matrix.{key}.weight": size for key, size in own_matrices(shape, name).items()}
    return found


def tensor_name(layer: int, part: str) -> str:
    """Return Hugging Face's name of a layer's tensor."""
    return f"model.layers.{layer}.{part}" + ("" if part.endswith(".bias") else ".weight")


def tensor_sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return all tensors of a model under Hugging Face's names, with sizes; rows are outputs. PanGu-pi's have our names."""
    length = {
        "width": shape.width, "heads": shape.heads * shape.head_dim, "kv_heads": shape.kv_heads * shape.head_dim,
        "ffn": shape.ffn_width, "head_dim": shape.head_dim,
    }  # fmt: skip
    parts = layer_parts(shape)
    sizes: dict[str, tuple[int, ...]] = {EMBEDDING: (shape.vocab_size, shape.width), NORM: (shape.width,)}
    for layer in range(shape.depth):
        sizes |= {tensor_name(layer, part): tuple(length[axis] for axis in axes) for part, axes in parts.items()}
        sizes |= {f"model.layers.{layer}.{part}": size for part, size in own_parts(shape).items()}
    if not shape.tied:
        sizes[HEAD] = (shape.vocab_size, shape.width)
    return sizes
