"""Generation with the cache compared with generation without it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.decoding import Cached, decode_speed, generate
from tinylm_ablate.arch.shapes import Shape

LLAMA = Shape(depth=3, width=32, ffn_width=56, heads=4, kv_heads=4, head_dim=8, vocab_size=101)
SHAPES = {
    "llama": LLAMA,
    "grouped, tied": dataclasses.replace(LLAMA, kv_heads=2, tied=True),
    "one key-value head": dataclasses.replace(LLAMA, kv_heads=1),
    "biases": dataclasses.replace(LLAMA, kv_heads=2, qkv_bias=True),
    "norms of queries and keys": dataclasses.replace(LLAMA, kv_heads=2, qk_norm=True),
    "pangu": dataclasses.replace(LLAMA, kv_heads=2, activations=2, shortcuts=1, shortcut_ratio=4),
}


@pytest.fixture(params=SHAPES)
def decoder(request):
    decoder = Decoder(SHAPES[request.param])
    generator = torch.Generator().manual_seed(0)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.3, generator=generator)
    return decoder


def prompts(batch: int = 3, length: int = 4) -> torch.Tensor:
    return torch.randint(101, (batch, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("length", [1, 4])
def test_tokens_equal_those_without_a_cache(decoder, length):
    tokens = prompts(length=length)
    found = generate(decoder, tokens, 24)
    with torch.no_grad():
        for _ in range(24):
            tokens = torch.cat((tokens, decoder(tokens)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(found, tokens)
    assert len(set(found[0].tolist())) > 4, "a sequence of one token tests little"


def test_logits_equal_those_without_a_cache(decoder):
    tokens = prompts(length=12)
    with torch.no_grad():
        expected = decoder(tokens)
        cached = Cached(decoder, batch=3, length=12)
        found = [cached.read(tokens[:, :5]), *(cached.read(tokens[:, [position]]) for position in range(5, 12))]
    torch.testing.assert_close(torch.stack(found, dim=1), expected[:, 4:], rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError):
        cached.read(tokens[:, :2])


def test_draws_depend_only_on_the_seed(decoder):
    one = generate(decoder, prompts(), 20, temperature=0.9, seed=5)
    torch.rand(3)
    assert torch.equal(one, generate(decoder, prompts(), 20, temperature=0.9, seed=5))
    assert not torch.equal(one, generate(decoder, prompts(), 20, temperature=0.9, seed=6))
    before = torch.get_rng_state()
    generate(decoder, prompts(), 3, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), before)


def test_top_1_is_greedy(decoder):
    greedy = generate(decoder, prompts(), 10)
    assert torch.equal(generate(decoder, prompts(), 10, temperature=2.0, top_k=1), greedy)


def test_draws_follow_the_softmax():
    decoder = Decoder(dataclasses.replace(LLAMA, depth=1, vocab_size=3))
    torch.nn.init.normal_(decoder.embedding.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(decoder.head.weight, std=0.1, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        p = (decoder(torch.zeros(1, 1, dtype=torch.int64))[0, 0] / 0.7).softmax(-1)
    drawn = generate(decoder, torch.zeros(4000, 1, dtype=torch.int64), 1, temperature=0.7)[:, 1]
    share = drawn.bincount(minlength=3) / 4000
    torch.testing.assert_close(share, p, rtol=0, atol=0.03)
    two = generate(decoder, torch.zeros(4000, 1, dtype=torch.int64), 1, temperature=0.7, top_k=2)[:, 1]
    assert int(p.argmin()) not in two.tolist()


def test_sequences_end_at_the_end_of_text(decoder):
    free = generate(decoder, prompts(), 24)
    end = int(free[0, 10])
    found = generate(decoder, prompts(), 24, end_of_text=end)
    for before, after in zip(free[:, 4:].tolist(), found[:, 4:].tolist(), strict=True):
        stop = before.index(end) + 1 if end in before else len(before)
        assert after[:stop] == before[: min(stop, len(after))]
        assert set(after[stop:]) <= {end}
    alone = generate(decoder, prompts()[:1], 24, end_of_text=end)
    assert alone.shape[1] == 4 + free[0, 4:].tolist().index(end) + 1


def test_an_empty_prompt_is_refused(decoder):
    with pytest.raises(ValueError):
        generate(decoder, torch.empty(2, 0, dtype=torch.int64), 3)
    assert torch.equal(generate(decoder, prompts(), 0), prompts())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_speed_is_a_rate_and_leaves_the_random_generator_unchanged(precision):
    before = torch.get_rng_state()
    assert decode_speed(LLAMA, batch=2, new_tokens=6, precision=precision) > 0
    assert torch.equal(torch.get_rng_state(), before)
