"""Cost of training a shape: memory, and FLOPs by the conventions of published figures.

Nothing here imports torch. The exact count of operations is ``shapes.flops_per_token``.
"""

from __future__ import annotations

from tinylm_ablate.arch.shapes import KERNEL_CHANNELS, Shape, matrices, parameters

#: Bytes of a chunk's fp32 logits in the loss, at most. On a CPU, small chunks fit the cache; a GPU needs large ones, of which
#: PyTorch's operations keep two copies, and our kernels none.
CHUNK_BYTES = {"cpu": 8 * 2**20, "gpu": 512 * 2**20, "gpu kernels": 2 * 2**30}

#: Bytes of a chunk and its copies; an upper bound on a CPU.
_LOSS_BYTES = 4 * CHUNK_BYTES["cpu"]

#: Dense bf16 FLOP/s from NVIDIA's data sheets, by part of the device's name; the first match is used.
_PEAKS = {"A100": 312e12, "H100 PCIe": 756e12, "H100": 989.4e12, "H200": 989.4e12}


def flops_6n_attention(shape: Shape, context_length: int) -> int:
    """Return ``palm_flops`` of a shape."""
    return palm_flops(parameters(shape)["total"], shape.depth, shape.heads * shape.head_dim, context_length)


def palm_flops(count: int, depth: int, width: int, context_length: int) -> int:
    """Training FLOPs per token as 6 N + 12 * depth * width * T, without halving attention for its mask.

    This is PaLM's convention (arXiv 2204.02311, Appendix B), which llm-foundry's tables use.

    Args:
        count: All parameters N.
        depth: Layers.
        width: Channels of all heads together.
        context_length: Tokens T of a sequence.
    """
    return 6 * count + 12 * depth * width * context_length


def flops_utilisation(flops: float, tokens_per_second: float, accelerator: str | None) -> float | None:
    """Model FLOPs utilization, percent of the dense bf16 peak of a GPU; None if the peak is unknown.

    Args:
        flops: Training FLOPs per token by any convention, without recomputation.
        tokens_per_second: Throughput of one GPU.
        accelerator: Name of the GPU from its driver.
    """
    peak = next((peak for name, peak in _PEAKS.items() if name in (accelerator or "")), None)
    return None if peak is None else 100 * flops * tokens_per_second / peak


def training_memory(
    shape: Shape, micro_batch: int, context_length: int, precision: str = "fp32", checkpointing: bool = False
) -> int:
    """Peak memory of a training step in bytes, without the few hundred megabytes of the libraries.

    Weights, gradients and Adam's two moments take 16 bytes per parameter in fp32. Added to these are the activations that
    layers keep for the backward pass (compiled layers keep fewer), bf16 copies of the matrices, and the loss with the head's
    gradient, but never all logits. Temporaries of the backward pass are estimated as one layer's activations. A test checks
    the activations against the code; the total is an estimate.

    Args:
        shape: The decoder.
        micro_batch: Sequences per forward pass.
        context_length: Tokens per sequence.
        precision: "fp32", "bf16" with weights in fp32, or "bf16-true" with weights, gradients and moments in bf16 as well,
            assuming products in fp32, as on a CPU without bf16 instructions.
        checkpointing: Whether layers keep only their input.
    """
    entry = 8 if precision == "bf16-true" else 16
    if precision == "bf16-true":
        precision = "fp32"
    kept = layer_activations(shape, micro_batch, context_length, precision)
    stream = 4 * micro_batch * context_length * shape.width
    layers = shape.depth * stream + kept if checkpointing else shape.depth * kept
    copies = layer_copies(shape) * (1 if checkpointing else shape.depth) if precision != "fp32" else 0
    head = 4 * shape.vocab_size * shape.width
    ends = 5 * stream + head + (head // 2 if precision != "fp32" else 0)
    return entry * parameters(shape)["total"] + layers + kept + copies + ends + _LOSS_BYTES


def layer_activations(shape: Shape, micro_batch: int, context_length: int, precision: str = "fp32") -> int:
    """Bytes of activations that one layer keeps for its backward pass; an upper bound with heads of 8 in ``bf16_attention``."""
    size = 4 if precision == "fp32" else 2
    norms = 2 * (4 * shape.width + 4 + size * shape.width)
    if shape.is_own:  # input and output of each matrix, and the same amount again for everything between them
        channels = sum(rows + columns for parts in matrices(shape).values() for rows, columns in parts.values())
        return micro_batch * context_length * (norms + 2 * size * channels)
    # Queries, keys and values (repeated where heads share them), their mix, and of each query the highest score and the sum of
    # the softmax; the kernel of small heads keeps no sums, but the mix in another order than the output projection.
    small = shape.head_dim == KERNEL_CHANNELS
    attention = size * (5 if small else 4) * shape.heads * shape.head_dim + (0 if small else 8 * shape.heads)
    if shape.qk_norm:
        # Queries and keys in fp32 before their norm (then in one memory with the values, unless they are a copy), and after it
        # without its weights; and the root of each.
        turned = shape.heads + shape.kv_heads
        together = turned + (shape.kv_heads if precision == "fp32" else 0)
        attention += 4 * shape.head_dim * together + size * shape.head_dim * turned + 4 * turned
    # Gate and up; between them and the last product a series of activations keeps its terms, SwiGLU nothing.
    ffn = size * shape.ffn_width * (2 + (shape.activations + 2 if shape.activations > 1 else 0))
    shortcuts = size * 2 * shape.shortcuts * shape.shortcut_width
    if shape.shortcuts and precision != "fp32":
        shortcuts += size * shape.width  # their input is rounded a second time
    return micro_batch * context_length * (norms + attention + ffn + shortcuts)


def layer_copies(shape: Shape) -> int:
    """Bytes of one layer's bf16 copies of its matrices; SwiGLU recomputes that of its last one."""
    made_again = {"ffn.down"} if shape.activations == 1 else set()
    kept = [parts for name, parts in matrices(shape).items() if name not in made_again]
    return 2 * sum(rows * columns for parts in kept for rows, columns in parts.values())
