"""Costs compared with published figures."""

from __future__ import annotations

import pytest

from tinylm_ablate.arch.costs import flops_6n_attention, flops_utilisation, palm_flops, training_memory
from tinylm_ablate.arch.shapes import Shape, parameters

TINYLLAMA = Shape(22, 2048, 5632, 32, 4, 64, 32000)
PAPER = Shape(20, 1792, 4864, 14, 14, 128, 48000)


def test_tinyllamas_utilization():
    """24,000 tokens/s on an A100 (312 TFLOP/s) are 50.8 % by 6 N (arXiv 2401.02385)."""
    flops = 6 * parameters(TINYLLAMA)["total"]
    assert flops_utilisation(flops, 24_000, "NVIDIA A100-SXM4-40GB") == pytest.approx(50.8, abs=0.05)


def test_llm_foundrys_utilization():
    """45,455 tokens/s of MPT-1B (tied, learned positions, no biases) on an H100 are 41.8 % by PaLM's convention."""
    depth, width, vocab, length = 24, 2048, 50_368, 2048
    count = (vocab + length) * width + depth * (12 * width**2 + 2 * width) + width
    flops = palm_flops(count, depth, width, length)
    assert flops_utilisation(flops, 45_455, "NVIDIA H100 80GB HBM3") == pytest.approx(41.8, abs=0.05)


def test_no_utilization_without_a_known_peak():
    assert flops_utilisation(1e9, 1e3, None) is None
    assert flops_utilisation(1e9, 1e3, "some other accelerator") is None


def test_attention_in_palms_convention():
    assert flops_6n_attention(TINYLLAMA, 2048) - 6 * parameters(TINYLLAMA)["total"] == 12 * 22 * 2048 * 2048


def test_memory_grows_as_it_should():
    states = 16 * 951_983_872
    plain = training_memory(PAPER, 4, 2048)
    assert states < training_memory(PAPER, 1, 2048, checkpointing=True) < training_memory(PAPER, 1, 2048) < plain
    assert training_memory(PAPER, 4, 2048, "bf16") < plain
    doubled = training_memory(PAPER, 8, 2048) - plain
    assert doubled == pytest.approx(training_memory(PAPER, 12, 2048) - training_memory(PAPER, 8, 2048))


def test_memory_of_weights_and_states_in_bf16():
    """With 16 GB, the 1B shape trains in bf16 with recomputed activations."""
    assert (
        training_memory(PAPER, 1, 2048, "bf16-true", checkpointing=True) < 10e9 < 16e9 < training_memory(PAPER, 1, 2048, "bf16")
    )
