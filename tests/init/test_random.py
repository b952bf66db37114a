"""The random rules: standard deviation of every matrix by layer, and the source of random numbers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.config import InitConfig
from tinylm_ablate.hardware import torch_threads
from tinylm_ablate.init.random import initialize, layer_matrices, matrix_std, standard_deviation

SHAPE = Shape(depth=5, width=64, ffn_width=96, heads=4, kv_heads=2, head_dim=16, vocab_size=300)
PANGU = dataclasses.replace(SHAPE, activations=3, shortcuts=2, shortcut_ratio=4)
SIGMA = 0.02
RULES = ("constant", "gpt2", "internlm", "depthwise")


def drawn(shape: Shape, rule: str, seed: int = 0, std: float = SIGMA) -> Decoder:
    decoder = Decoder(shape)
    initialize(decoder, InitConfig(rule=rule, std=std), seed)
    return decoder


def by_hand(rule: str, matrix: str, layer: int) -> float:
    """Return the rules of Section 3.1 and Appendix B for five layers, written out."""
    if rule == "gpt2" or (rule == "internlm" and matrix in ("out", "gate")):
        return SIGMA / math.sqrt(10)
    if rule == "depthwise" and matrix in ("q", "k"):
        return SIGMA * [2**0.5, 2**0.5 * 0.75 + 0.25, 2**0.5 * 0.5 + 0.5, 2**0.5 * 0.25 + 0.75, 1][layer]
    if rule == "depthwise" and matrix in ("v", "out"):
        return SIGMA * [0.5**0.5, 0.5**0.5 * 0.75 + 0.25, 0.5**0.5 * 0.5 + 0.5, 0.5**0.5 * 0.25 + 0.75, 1][layer]
    return SIGMA


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [SHAPE, PANGU], ids=["llama", "pangu"])
def test_every_matrix_has_the_std_of_its_rule(rule, shape):
    decoder = drawn(shape, rule)
    entries = {(layer, name): weight.numel() for layer, name, weight in layer_matrices(decoder)}
    rows = matrix_std(decoder)
    assert len(rows) == 5 * (7 if shape is SHAPE else 9) == len(entries)
    for row in rows:
        expected = by_hand(rule, row["matrix"], row["layer"])
        # The estimate of a standard deviation from n draws has a relative error of 1/sqrt(2n).
        assert row["std"] == pytest.approx(expected, rel=5 / math.sqrt(2 * entries[row["layer"], row["matrix"]]))
        assert standard_deviation(rule, SIGMA, row["matrix"], row["layer"], 5) == pytest.approx(expected)
    for weight in (decoder.embedding.weight, decoder.head.weight):
        assert float(weight.detach().std()) == pytest.approx(SIGMA, rel=5 / math.sqrt(2 * weight.numel()))
        assert abs(float(weight.detach().mean())) < 5 * SIGMA / math.sqrt(weight.numel())
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            assert bool((parameter == 1).all())


@pytest.mark.parametrize("rule", RULES)
def test_sigma_scales_everything(rule):
    one, other = (list(layer_matrices(drawn(SHAPE, rule, std=std))) for std in (0.01, 0.03))
    for (*_, small), (*_, large) in zip(one, other, strict=True):
        torch.testing.assert_close(3 * small, large)


def test_rules_share_their_draws():
    constant, gpt2 = (dict(drawn(SHAPE, rule).named_parameters()) for rule in ("constant", "gpt2"))
    ours, theirs = constant["layers.3.ffn.down.weight"], gpt2["layers.3.ffn.down.weight"]
    torch.testing.assert_close(ours, theirs * math.sqrt(10))
    assert torch.equal(constant["embedding.weight"], gpt2["embedding.weight"])


def test_draws_depend_only_on_the_seed():
    first = drawn(PANGU, "constant", seed=3).state_dict()
    torch.manual_seed(99)
    before = torch.get_rng_state()
    for count in (1, 2):
        with torch_threads(count):
            again = drawn(PANGU, "constant", seed=3).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
    assert torch.equal(torch.get_rng_state(), before)
    other = drawn(PANGU, "constant", seed=4).state_dict()
    assert not torch.equal(other["layers.0.attention.qkv.weight"], first["layers.0.attention.qkv.weight"])


def test_no_two_matrices_are_alike():
    weights = [weight.flatten()[:50] for *_, weight in layer_matrices(drawn(SHAPE, "constant"))]
    assert len({tuple(weight.tolist()) for weight in weights}) == len(weights)


def test_a_matrix_does_not_depend_on_the_depth():
    deep = dict(drawn(dataclasses.replace(SHAPE, depth=9), "constant").named_parameters())
    shallow = dict(drawn(SHAPE, "constant").named_parameters())
    assert all(torch.equal(deep[name], parameter) for name, parameter in shallow.items())


def test_tied_and_single_layer_models():
    decoder = drawn(dataclasses.replace(SHAPE, depth=1, tied=True), "depthwise")
    assert decoder.head is None
    assert standard_deviation("depthwise", 1.0, "q", 0, 1) == pytest.approx(math.sqrt(2))


def test_a_pangu_block_starts_near_llamas():
    activation = drawn(PANGU, "constant").layers[2].ffn.activation
    gate = torch.randn(4, 96)
    torch.testing.assert_close(activation(gate), torch.nn.functional.silu(gate), rtol=0, atol=5 * 2 * SIGMA * 3)
    terms = activation.scales.view(3, 96)
    assert bool((terms[0] == 1).all()) and not torch.equal(terms[1], terms[2])
    assert bool((activation.shifts == 0).all())


def test_every_weight_of_a_pangu_model_learns():
    decoder = drawn(PANGU, "constant")
    tokens = torch.randint(300, (4, 17), generator=torch.Generator().manual_seed(0))
    decoder.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(bool((parameter.grad != 0).any()) for parameter in decoder.parameters())


def test_an_unknown_rule_is_a_defect():
    with pytest.raises(ValueError, match="unknown random rule"):
        standard_deviation("xavier", 1.0, "q", 0, 2)
