"""Several seeds of one shape as one batched model, against the same steps one after another.

``torch.func`` makes one model of K: every matrix product becomes a batched one, and every elementwise pass K times as long, so
that what an operation costs besides its arithmetic is paid once. Our attention, norm, SwiGLU and loss are operations of their
own that it cannot batch; PyTorch's stand in for them in the batched model. So that both causes can be told apart, those are
also measured one model after another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from unittest import mock

from benchmarks.measure import THREADS, Result, interleaved, quartiles
from benchmarks.models import CASES, Step, batch_ids, ours

PARTS = ("N x 2", "N x 4")

#: Sequences of a step in runs at scale s32.
BATCH = 8


def run(part: str, windows: int) -> Result:
    """Measure K models of a case: batched, one after another in plain operations, and one after another as runs train."""
    import torch

    torch.set_num_threads(THREADS)
    name, _, count = part.split()
    case, models = dataclasses.replace(CASES[name], batch=BATCH), int(count)
    own = [ours(case, "fp32", compile=True) for _ in range(models)]
    alone = [_batched(case, 1) for _ in range(models)]
    together = _batched(case, models)
    times = interleaved(
        {
            "batched": together,
            "plain, one after another": lambda: [step() for step in alone],
            "ours, one after another": lambda: [step() for step in own],
        },
        windows,
    )
    batched = times["batched"]
    return {
        "models": models,
        "tokens_per_step": case.tokens * models,
        "seconds": {path: quartiles(each) | {"windows": each} for path, each in times.items()},
        "speedup": {
            path: quartiles([a / b for a, b in zip(each, batched, strict=True)])
            for path, each in times.items()
            if path != "batched"
        },
    }


def _batched(case, models: int) -> Step:
    """A step of several models, each with a norm of its own to clip."""
    import torch
    from torch.func import functional_call, grad_and_value, stack_module_state, vmap

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize

    config = compose([])
    decoders = [Decoder(case.shape) for _ in range(models)]
    for seed, decoder in enumerate(decoders):
        initialize(decoder, config.init, seed=seed)
    weights, buffers = stack_module_state(decoders)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(list(weights.values()), lr=1e-4, fused=True)
    skeleton = Decoder(case.shape).to("meta")
    ids = batch_ids(case).expand(models, -1, -1)

    def loss(own, own_buffers, tokens):
        logits = functional_call(skeleton, (own, own_buffers), (tokens[:, :-1],))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    gradients = vmap(grad_and_value(loss))

    def step() -> float:
        with _plain_operations():
            grads, losses = gradients(weights, buffers, ids)
        norms = sum(grad.square().flatten(1).sum(1) for grad in grads.values()).sqrt()
        factor = (1 / (norms + 1e-6)).clamp(max=1)
        for name, grad in grads.items():
            weights[name].grad = grad * factor.view(-1, *[1] * (grad.ndim - 1))
        optimizer.step()
        return losses.sum().item()

    return step


@contextlib.contextmanager
def _plain_operations() -> Iterator[None]:
    """The decoder computes with PyTorch's own operations within the block."""
    import torch.nn.functional as F

    from tinylm_ablate.arch import decoder, recomputing

    def attention(queries, keys, values):
        # It has no rule for batching and runs model by model, but products and a softmax, which have, take five times as long.
        queries, keys, values = (part.transpose(-3, -2) for part in (queries, keys, values))
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True).transpose(-3, -2).flatten(-2)

    with (
        warnings.catch_warnings(action="ignore", category=UserWarning),
        mock.patch.object(decoder, "causal_attention", attention),
        mock.patch.object(recomputing, "_plain", lambda *_: True),
    ):
        yield
