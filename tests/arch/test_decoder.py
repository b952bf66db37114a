"""The decoder as a module: counts, devices, precision, causality, memory. tests/formats/test_huggingface.py compares its
numbers with transformers."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from tinylm_ablate.arch import bf16_attention
from tinylm_ablate.arch.costs import layer_activations, layer_copies
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.layers import Rotary, rotate
from tinylm_ablate.arch.shapes import Shape, parameters
from tinylm_ablate.train.compile import assume_kernels

LLAMA = Shape(depth=3, width=32, ffn_width=56, heads=4, kv_heads=4, head_dim=8, vocab_size=101)
SHAPES = {
    "llama": LLAMA,
    "grouped, tied": dataclasses.replace(LLAMA, kv_heads=2, tied=True),
    "one key-value head": dataclasses.replace(LLAMA, kv_heads=1),
    "pangu": dataclasses.replace(LLAMA, activations=3, shortcuts=2, shortcut_ratio=4),
    "heads wider than the stream": dataclasses.replace(LLAMA, head_dim=16),
    "biases": dataclasses.replace(LLAMA, kv_heads=2, qkv_bias=True),
    "norms of queries and keys": dataclasses.replace(LLAMA, kv_heads=2, qk_norm=True),
}


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def random_decoder(shape: Shape, seed: int = 0) -> Decoder:
    decoder = Decoder(shape)
    generator = torch.Generator().manual_seed(seed)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2, generator=generator)
    return decoder


def some_tokens(shape: Shape, batch: int = 2, length: int = 17) -> torch.Tensor:
    return torch.randint(shape.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def test_parameters_are_counted_exactly(shape):
    decoder = Decoder(shape)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == parameters(shape)["total"]
    assert sum(tensor.numel() for tensor in decoder.state_dict().values()) == parameters(shape)["total"]


def test_the_1b_shape_takes_no_memory_on_the_meta_device():
    paper = Shape(20, 1792, 4864, 14, 14, 128, 48000)
    with torch.device("meta"):
        decoder = Decoder(paper)
        logits = decoder(torch.zeros(1, 2048, dtype=torch.int64))
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 951_983_872
    assert logits.shape == (1, 2048, 48000) and logits.device.type == "meta"


def test_loss_equals_that_of_the_logits(shape):
    decoder, tokens = random_decoder(shape), some_tokens(shape)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    logits = decoder(inputs)
    assert logits.shape == (2, 16, shape.vocab_size)
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(2, 16)
    torch.testing.assert_close(decoder.loss(inputs, targets, reduction="none"), expected)
    torch.testing.assert_close(decoder.loss(inputs, targets), expected.mean())


def test_no_token_sees_the_future(shape):
    decoder, tokens = random_decoder(shape), some_tokens(shape)
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % shape.vocab_size
    before, after = decoder(tokens), decoder(changed)
    assert torch.equal(before[:, :9], after[:, :9])
    assert not torch.equal(before[:, 9:], after[:, 9:])


def test_checkpointing_changes_memory_but_not_gradients(shape):
    tokens = some_tokens(shape)
    plain, saving = random_decoder(shape), random_decoder(shape)
    saving.checkpointing = True
    kept = []
    for decoder in (plain, saving):
        loss, bytes_kept = kept_by(lambda decoder=decoder: decoder.loss(tokens[:, :-1], tokens[:, 1:]), decoder)
        loss.backward()
        kept.append(bytes_kept)
    for ours, theirs in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("own", [False, True])
def test_the_estimate_of_activations_is_exact(shape, precision, own, monkeypatch):
    """Difference between three and four layers, within 2 %, without small tables; our own attention needs less."""
    if not own:
        monkeypatch.setattr(bf16_attention, "usable", lambda _: False)

    def kept(depth: int) -> int:
        decoder = random_decoder(dataclasses.replace(shape, depth=depth))
        tokens = some_tokens(shape, batch=4, length=65)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return kept_by(lambda: decoder.loss(tokens[:, :-1], tokens[:, 1:]), decoder)[1]

    copies = layer_copies(shape) if precision == "bf16" else 0
    estimate = layer_activations(shape, 4, 64, precision) + copies
    found = kept(4) - kept(3)
    assert found == pytest.approx(estimate, rel=0.02) or (own and 0.8 * estimate < found < estimate)


def kept_by(compute, decoder):
    """Return the result, and the bytes that autograd stores for it in addition to the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = compute()
    return result, sum(storages.values())


def test_bf16_autocast_stays_near_fp32(shape):
    decoder, tokens = random_decoder(shape), some_tokens(shape)
    exact = decoder.loss(tokens[:, :-1], tokens[:, 1:])
    with torch.autocast("cpu", torch.bfloat16):
        loss = decoder.loss(tokens[:, :-1], tokens[:, 1:])
        assert decoder(tokens).dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0.05)
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_a_decoder_filled_from_the_meta_device_computes_the_same(shape):
    decoder, tokens = random_decoder(shape), some_tokens(shape)
    with torch.device("meta"):
        other = Decoder(shape)
        other(tokens.to("meta"))
    other.to_empty(device="cpu").load_state_dict(decoder.state_dict())
    expected = decoder(tokens)
    assert torch.equal(other(tokens), expected)
    assert torch.equal(copy.deepcopy(decoder)(tokens), expected)


def test_training_works_after_inference_created_the_tables():
    decoder, tokens = random_decoder(LLAMA), some_tokens(LLAMA)
    with torch.inference_mode():
        decoder(tokens)
    decoder.loss(tokens[:, :-1], tokens[:, 1:]).backward()


def test_rotary_products_depend_only_on_distance():
    cos, sin = Rotary(8, 10000.0).tables(40, torch.device("cpu"))
    query, key = torch.randn(2, 8)
    turned = [rotate(vector.expand(1, 40, 1, 8), cos, sin).flatten(0, 2) for vector in (query, key)]
    products = turned[0] @ turned[1].mT
    for distance in (0, 3, 11):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)


def test_tables_grow_with_the_sequence():
    rotary = Rotary(8, 500.0)
    short = rotary.tables(4, torch.device("cpu"))[0].clone()
    assert torch.equal(rotary.tables(30, torch.device("cpu"))[0][:4], short)
    assert rotary.tables(4, torch.device("cpu"))[1].shape == (4, 1, 4)


def test_layers_can_be_compiled():
    """Each is one graph with the same gradients; compiled code is tested with the training of runs."""
    tokens = some_tokens(LLAMA)
    plain, compiled = (random_decoder(dataclasses.replace(LLAMA, depth=1, kv_heads=2)) for _ in range(2))
    assume_kernels()
    for layer in compiled.layers:
        layer.compile(fullgraph=True, backend="aot_eager")
    for decoder in (plain, compiled):
        decoder.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    for ours, theirs in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
