"""Generation with a cache of keys and values, and its speed by the paper's protocol.

A step of one token is a few dozen small operations, so what counts is how many there are: the cache is allocated once at its
full length and written in place, queries, keys and values come from one product, the weights are used without going through
modules' calls, and a step of one token needs no mask. Query heads that share a key-value head stand as rows of one product, so
that nothing is repeated.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F
from torch import Tensor

from tinylm_ablate.arch.decoder import Attention, Decoder, Layer
from tinylm_ablate.arch.layers import RMSNorm, rotate
from tinylm_ablate.arch.shapes import Shape

#: Words of a configuration -> the type of the weights.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Cached:
    """A decoder with the keys and values of the tokens that it has read.

    Args:
        decoder: The decoder; its weights are used as they are.
        batch: Sequences B.
        length: Most tokens that a sequence will have.
    """

    def __init__(self, decoder: Decoder, batch: int, length: int) -> None:
        self.decoder, self.batch, self.length = decoder, batch, length
        self.position = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._tables: tuple[Tensor, Tensor] | None = None

    def read(self, tokens: Tensor) -> Tensor:
        """Read the next tokens, (B, n): the whole prompt first, then one at a time.

        Returns:
            Logits of the token that follows the last one, (B, V).
        """
        count = tokens.shape[1]
        if count != 1 and self.position != 0:
            raise ValueError("after the prompt, tokens are read one at a time")
        end = self.position + count
        x = F.embedding(tokens, self.decoder.embedding.weight)
        if self._tables is None:
            cos, sin = self.decoder.rotary.tables(self.length, tokens.device)
            self._tables = cos.to(x.dtype), sin.to(x.dtype)
        cos, sin = (table[self.position : end] for table in self._tables)
        for index, layer in enumerate(self.decoder.blocks):
            x = self._layer(index, layer, x, cos, sin)
        self.position = end
        return F.linear(_norm(x[:, -1], self.decoder.norm), self.decoder.head_weight)

    def _layer(self, index: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        hidden = _norm(x, layer.attention_norm)
        mixed = F.linear(self._attend(index, layer.attention, hidden, cos, sin), layer.attention.out.weight)
        x = x + mixed if layer.shortcuts is None else x + mixed + layer.shortcuts(hidden)
        gate, up = F.linear(_norm(x, layer.ffn_norm), layer.ffn.gate_up.weight).chunk(2, dim=-1)
        return x + F.linear(layer.ffn.activation(gate).mul_(up), layer.ffn.down.weight)

    def _attend(self, index: int, attention: Attention, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """(B, n, width) -> (B, n, heads * head_dim), and the cache of layer ``index`` is n positions longer."""
        batch, count, _ = hidden.shape
        queried, shared, size = attention.heads, attention.kv_heads, attention.head_dim
        heads = F.linear(hidden, attention.qkv.weight).view(batch, count, -1, size)
        turned, values = torch.split(heads, [queried + shared, shared], dim=2)
        turned = rotate(turned, cos.to(heads.dtype), sin.to(heads.dtype))
        queries, keys = torch.split(turned, [queried, shared], dim=2)
        if len(self._keys) == index:
            self._keys.append(heads.new_empty(batch, shared, size, self.length))
            self._values.append(heads.new_empty(batch, shared, self.length, size))
        start, end = self.position, self.position + count
        self._keys[index][..., start:end] = keys.permute(0, 2, 3, 1)
        self._values[index][:, :, start:end] = values.transpose(1, 2)
        group = queried // shared
        if count > 1:
            if group > 1:
                keys, values = keys.repeat_interleave(group, dim=2), values.repeat_interleave(group, dim=2)
            queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
            mixed = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            return mixed.transpose(1, 2).reshape(batch, count, queried * size)
        # For one position two plain products take about half the time of PyTorch's attention on a CPU, given that the keys
        # are stored with positions last.
        queries = queries.reshape(batch * shared, group, size) * size**-0.5
        scores = torch.bmm(queries, self._keys[index].view(batch * shared, size, -1)[..., :end])
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(heads.dtype)
        mixed = torch.bmm(weights, self._values[index].view(batch * shared, -1, size)[:, :end])
        return mixed.view(batch, 1, queried * size)


@torch.inference_mode()
def generate(
    decoder: Decoder,
    prompt_ids: Tensor,
    new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: int = 0,
    end_of_text: int | None = None,
) -> Tensor:
    """Continue prompts of equal length.

    Args:
        decoder: The decoder.
        prompt_ids: (B, T) token ids, T at least 1.
        new_tokens: Most tokens to add.
        temperature: 0 takes the likeliest token; otherwise logits are divided by it and a token is drawn.
        top_k: Draw among the k likeliest only.
        seed: Of the draws; PyTorch's own generator is left alone.
        end_of_text: A sequence that reaches this id is filled with it; when all have, generation ends.

    Returns:
        (B, T + n) prompts and continuations, n at most ``new_tokens``; the same tokens as without a cache.
    """
    batch, prompt_length = prompt_ids.shape
    if prompt_length < 1 or new_tokens < 0:
        raise ValueError(f"a prompt of {prompt_length} tokens and {new_tokens} new ones: needs at least 1 and 0")
    device = prompt_ids.device
    generator = torch.Generator(device).manual_seed(seed)
    tokens = torch.empty(batch, prompt_length + new_tokens, dtype=torch.int64, device=device)
    tokens[:, :prompt_length] = prompt_ids
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    cached = Cached(decoder, batch, prompt_length + new_tokens)
    read = 0
    for position in range(prompt_length, prompt_length + new_tokens):
        chosen = _choose(cached.read(tokens[:, read:position]), temperature, top_k, generator)
        if end_of_text is not None:
            chosen = chosen.masked_fill(ended, end_of_text)
            ended |= chosen == end_of_text
        tokens[:, position] = chosen
        read = position
        if end_of_text is not None and bool(ended.all()):
            return tokens[:, : position + 1]
    return tokens


def decode_speed(
    shape: Shape,
    batch: int = 20,
    prefix: int = 2,
    new_tokens: int = 510,
    precision: str = "fp32",
    seed: int = 0,
    device: str = "cpu",
) -> float:
    """New tokens a second over the whole batch, by the paper's protocol: greedy, random weights, a prefix of two tokens.

    (Tables 2, 3 and 12; the paper measured in FP16 on one V100.)

    Args:
        shape: The decoder to measure.
        batch, prefix, new_tokens: Sequences, tokens of the prompt, tokens to add.
        precision: "fp32", "bf16" or "fp16": weights and arithmetic.
        seed: Of weights and prompt.
        device: Where to measure.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        decoder = Decoder(shape)
    decoder = decoder.to(PRECISIONS[precision]).to_empty(device=device).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            drawn = torch.ones(parameter.shape)
            parameter.copy_(drawn if drawn.ndim == 1 else drawn.normal_(0, 0.02, generator=generator))
    prompts = torch.randint(shape.vocab_size, (batch, prefix), generator=generator).to(device)
    generate(decoder, prompts, min(new_tokens, 8))
    _wait(device)
    start = time.perf_counter()
    generate(decoder, prompts, new_tokens)
    _wait(device)
    return batch * new_tokens / (time.perf_counter() - start)


def _norm(x: Tensor, norm: RMSNorm) -> Tensor:
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.eps)


def _choose(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> Tensor:
    """(B, V) -> (B,)."""
    if temperature <= 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
