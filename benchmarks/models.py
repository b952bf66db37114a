"""Measured shapes, and one training step of each by us and by the peers.

All peers train the same shape on the same tokens with AdamW and clip to a norm of one. Each is used as documented:

- transformers: ``LlamaForCausalLM`` and its own loss, as ``Trainer`` calls them, with the fused AdamW that is Trainer's
  default.
- litgpt: the steps of ``litgpt.pretrain``: Fabric, ``torch.compile`` of the whole model, ``chunked_cross_entropy``, and AdamW,
  not fused on a CPU. Its default precision is bf16-mixed, on CPUs too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from tinylm_ablate.arch.shapes import Shape

Step = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """A shape and its training batch.

    Attributes:
        shape: The decoder.
        length: Tokens T per sequence.
        batch: Sequences per step.
    """

    shape: Shape
    length: int
    batch: int

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.length * self.batch


CASES = {
    "S": Case(Shape(8, 256, 704, 4, 4, 64, 4096), 256, 16),
    "N": Case(Shape(20, 56, 152, 7, 7, 8, 1500), 256, 32),  # the baseline at scale s32
    "M": Case(Shape(12, 384, 1024, 6, 6, 64, 8192), 512, 8),
}


def ours(case: Case, precision: str, compile: bool, recompute: bool = False) -> Step:
    """A step of our training path, without Lightning."""
    import torch

    from tinylm_ablate.arch.decoder import Decoder
    from tinylm_ablate.grid.compose import compose
    from tinylm_ablate.init.random import initialize
    from tinylm_ablate.optimizer.optimizers import build_optimizer
    from tinylm_ablate.train.compile import compiled

    config = compose(["init.std=0.02"])
    decoder = Decoder(case.shape)
    initialize(decoder, config.init, seed=0)
    decoder.checkpointing = recompute
    optimizer = build_optimizer(decoder, config.optimizer, 1e-4)
    context = contextlib.ExitStack()
    context.enter_context(compiled(decoder, compile))
    ids = batch_ids(case)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = decoder.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    step.context = context  # type: ignore[attr-defined]  # the layers stay compiled as long as the step is in use
    return step


def without_kernel(step: Step) -> Step:
    """The same step with PyTorch's attention instead of C kernels."""
    from unittest import mock

    from tinylm_ablate.arch import bf16_attention, small_heads

    def unusable(_: object) -> bool:  # one function, since the compiler would compile again for another one
        return False

    def plain() -> float:
        with mock.patch.object(small_heads, "usable", unusable), mock.patch.object(bf16_attention, "usable", unusable):
            return step()

    return plain


def transformers_step(case: Case, precision: str, compile: bool, device: str = "cpu", parts: int = 1) -> Step:
    """A step of transformers' LlamaForCausalLM, whose batch is computed in equal parts."""
    import torch

    model = transformers_model(case.shape).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    run = torch.compile(model) if compile else model
    ids = batch_ids(case)[:, :-1].contiguous().to(device)

    def step() -> float:
        for part in ids.chunk(parts):
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
                loss = run(input_ids=part, labels=part, use_cache=False).loss / parts
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def litgpt_step(case: Case, precision: str) -> Step:
    """Return a step of litgpt's pretraining."""
    import lightning
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.utils import chunked_cross_entropy, instantiate_torch_optimizer

    shape = case.shape
    fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")
    config = Config(
        name="peer", block_size=case.length, n_layer=shape.depth, n_embd=shape.width, n_head=shape.heads,
        n_query_groups=shape.kv_heads, head_size=shape.head_dim, vocab_size=shape.vocab_size,
        padded_vocab_size=shape.vocab_size, rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", norm_eps=shape.norm_eps, mlp_class_name="LLaMAMLP", intermediate_size=shape.ffn_width,
    )  # fmt: skip
    model = GPT(config)
    model = fabric.setup(torch.compile(model))
    optimizer = instantiate_torch_optimizer("AdamW", model.parameters(), fused=False)
    optimizer = fabric.setup_optimizers(optimizer)
    ids = batch_ids(case)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    def step() -> float:
        loss = chunked_cross_entropy(model(inputs), targets)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def transformers_model(shape: Shape):
    """Return transformers' Llama of a shape, created from its configuration."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size, hidden_size=shape.width, intermediate_size=shape.ffn_width,
            num_hidden_layers=shape.depth, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim, rms_norm_eps=shape.norm_eps, tie_word_embeddings=shape.tied, use_cache=False,
        )
    )  # fmt: skip


def batch_ids(case: Case):
    """Token ids of a step, (B, T + 1)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(case.shape.vocab_size, (case.batch, case.length + 1), generator=generator)
