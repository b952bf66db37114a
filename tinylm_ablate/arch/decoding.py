"""Generation with a key-value cache, and its speed by the paper's protocol.

A step of one token consists of a few dozen small operations, so their number matters: the cache is allocated once at full
length and written in place, one product computes queries, keys and values, the last product of a branch adds the residual
stream, and a step of one token needs no mask. Query heads that share a key-value head are rows of one product.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tinylm_ablate.arch.attention import causal_attention
from tinylm_ablate.arch.decoder import Attention, Decoder, FeedForward, Layer
from tinylm_ablate.arch.layers import RMSNorm, rotate
from tinylm_ablate.arch.shapes import Shape

#: Precision -> type of the weights.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Cached:
    """A decoder with a cache of keys and values. Not for training.

    Args:
        decoder: The decoder; its weights are used in their own precision.
        batch: Number of sequences B.
        length: Maximum number of tokens per sequence.
    """

    def __init__(self, decoder: Decoder, batch: int, length: int) -> None:
        self.decoder = decoder
        self.position = 0
        weight, half = decoder.embedding.weight, decoder.shape.head_dim // 2
        cos, sin = (table.to(weight.dtype) for table in decoder.rotary.tables(length, weight.device))
        self._tables = cos, sin
        # The same rotation as two products of whole heads: x * cos + (x with its halves exchanged) * (-sin, sin).
        self._whole = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        self._exchange = torch.arange(2 * half, device=weight.device).roll(half)
        self._layers = [_CachedLayer(layer, batch, length) for layer in decoder.blocks]

    def read(self, tokens: Tensor) -> Tensor:
        """Read the next tokens, (B, n): the whole prompt first, then one at a time.

        Returns:
            Logits of the token that follows the last one, (B, V).
        """
        count = tokens.shape[1]
        if count != 1 and self.position != 0:
            raise ValueError("after the prompt, tokens are read one at a time")
        if count == 1:
            x = F.embedding(tokens[:, 0], self.decoder.embedding.weight)
            cos, sin = (table[self.position] for table in self._whole)
            for layer in self._layers:
                x = layer.step(x, cos, sin, self._exchange, self.position)
        else:
            x = F.embedding(tokens, self.decoder.embedding.weight)
            cos, sin = (table[:count] for table in self._tables)
            for layer in self._layers:
                x = layer.prompt(x, cos, sin)
            x = x[:, -1]
        self.position += count
        return F.linear(_norm(x, self.decoder.norm), self.decoder.head_weight)


class _Recomputed:
    """The same interface for decoders with user-defined blocks, which have no cache: each step reads all tokens again."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.tokens: Tensor | None = None

    def read(self, tokens: Tensor) -> Tensor:
        """Like ``Cached.read``."""
        self.tokens = tokens if self.tokens is None else torch.cat((self.tokens, tokens), dim=1)
        logits: Tensor = self.decoder(self.tokens)[:, -1]
        return logits


class _CachedLayer:
    """One layer with its cache: keys (B * kv_heads, head_dim, length), values (B * kv_heads, length, head_dim).

    With positions last in the keys, two plain products take about half the time of PyTorch's attention on a CPU.
    """

    def __init__(self, layer: Layer, batch: int, length: int) -> None:
        self.layer = layer
        attention = layer.attention
        assert isinstance(attention, Attention) and isinstance(layer.ffn, FeedForward)
        self.attention, self.ffn = attention, layer.ffn
        self.heads, self.kv_heads, self.size = attention.heads, attention.kv_heads, attention.head_dim
        self.qkv, self.bias, self.out = attention.qkv.weight.mT, attention.qkv.bias, attention.out.weight.mT
        self.gate_up, self.down = self.ffn.gate_up.weight.mT, self.ffn.down.weight.mT
        self.keys = self.qkv.new_empty(batch * self.kv_heads, self.size, length)
        self.values = self.qkv.new_empty(batch * self.kv_heads, length, self.size)

    def prompt(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Process the prompt, (B, n, width) -> (B, n, width)."""
        layer, (batch, count, _) = self.layer, x.shape
        hidden = _norm(x, layer.attention_norm)
        heads = self.attention.qkv(hidden).view(batch, count, -1, self.size)
        turned, values = torch.split(heads, [self.heads + self.kv_heads, self.kv_heads], dim=2)
        turned = rotate(self.attention.normed(turned), cos, sin)
        queries, keys = torch.split(turned, [self.heads, self.kv_heads], dim=2)
        self.keys.view(batch, self.kv_heads, self.size, -1)[..., :count] = keys.permute(0, 2, 3, 1)
        self.values.view(batch, self.kv_heads, -1, self.size)[:, :, :count] = values.transpose(1, 2)
        x = x + self.attention.out(causal_attention(queries, keys, values))
        if layer.shortcuts is not None:
            x = x + layer.shortcuts(hidden)
        result: Tensor = x + layer.ffn(_norm(x, layer.ffn_norm))
        return result

    def step(self, x: Tensor, cos: Tensor, sin: Tensor, exchange: Tensor, position: int) -> Tensor:
        """Process one token per sequence, (B, width) -> (B, width)."""
        layer, batch, size = self.layer, x.shape[0], self.size
        hidden = _norm(x, layer.attention_norm)
        heads = torch.mm(hidden, self.qkv) if self.bias is None else torch.addmm(self.bias, hidden, self.qkv)
        turned, values = torch.split(heads.view(batch, -1, size), [self.heads + self.kv_heads, self.kv_heads], dim=1)
        turned = self.attention.normed(turned)
        turned = torch.addcmul(turned * cos, turned.index_select(2, exchange), sin)
        queries, keys = torch.split(turned, [self.heads, self.kv_heads], dim=1)
        self.keys[..., position] = keys.reshape(-1, size)
        self.values[:, position] = values.reshape(-1, size)
        queries = queries.reshape(batch * self.kv_heads, -1, size) * size**-0.5
        scores = torch.bmm(queries, self.keys[..., : position + 1])
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)
        mixed = torch.bmm(weights, self.values[:, : position + 1])
        x = torch.addmm(x, mixed.view(batch, -1), self.out)
        if layer.shortcuts is not None:
            x = x + layer.shortcuts(hidden)
        gate, up = torch.mm(_norm(x, layer.ffn_norm), self.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, self.ffn.activation(gate).mul_(up), self.down)


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
    ended: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Continue prompts of equal length.

    Args:
        decoder: The decoder.
        prompt_ids: (B, T) token ids, T at least 1.
        new_tokens: Maximum number of tokens to generate.
        temperature: Sampling temperature; 0 always takes the most likely token.
        top_k: Sample from the k most likely tokens only.
        seed: Seed of the samples; PyTorch's global generator is not used.
        end_of_text: A sequence that reaches this id is filled with it; generation ends when all sequences have.
        ended: Called after each token with the sequences (B, t); returns which are complete, (B,) bool. These are filled too.

    Returns:
        (B, T + n) prompts and continuations, n <= ``new_tokens``; the same tokens as without a cache.
    """
    batch, prompt_length = prompt_ids.shape
    if prompt_length < 1 or new_tokens < 0:
        raise ValueError(f"a prompt of {prompt_length} tokens and {new_tokens} new ones; allowed: at least 1 and 0")
    device = prompt_ids.device
    generator = torch.Generator(device).manual_seed(seed)
    tokens = torch.empty(batch, prompt_length + new_tokens, dtype=torch.int64, device=device)
    tokens[:, :prompt_length] = prompt_ids
    done = torch.zeros(batch, dtype=torch.bool, device=device)
    watched = end_of_text is not None or ended is not None
    cached = _Recomputed(decoder) if decoder.shape.is_own else Cached(decoder, batch, prompt_length + new_tokens)
    read = 0
    for position in range(prompt_length, prompt_length + new_tokens):
        with torch.autocast(device.type, enabled=False):
            logits = cached.read(tokens[:, read:position])
        chosen = _choose(logits, temperature, top_k, generator)
        if watched:
            chosen = chosen.masked_fill(done, 0 if end_of_text is None else end_of_text)
        tokens[:, position] = chosen
        read = position
        if end_of_text is not None:
            done |= chosen == end_of_text
        if ended is not None:
            done |= ended(tokens[:, : position + 1])
        if watched and bool(done.all()):
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
    """New tokens per second over the whole batch by the paper's protocol: greedy, random weights, a prefix of two tokens.

    (Tables 2, 3 and 12; the paper measured in FP16 on one V100.)

    Args:
        shape: The decoder to measure.
        batch, prefix, new_tokens: Sequences, tokens of the prompt, tokens to generate.
        precision: "fp32", "bf16" or "fp16": weights and arithmetic.
        seed: Seed of weights and prompt.
        device: Device to measure on.
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
