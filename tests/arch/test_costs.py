"""Costs against published figures."""

from __future__ import annotations

import pytest

from tinylm_ablate.arch.costs import flops_6n, flops_6n_attention, training_memory
from tinylm_ablate.arch.shapes import Shape

TINYLLAMA = Shape(22, 2048, 5632, 32, 4, 64, 32000)
PAPER = Shape(20, 1792, 4864, 14, 14, 128, 48000)


def test_tinyllamas_utilisation():
    """24,000 tokens/s on an A100 (312 TFLOP/s) are 50.8% by 6 N."""
    assert 100 * 24_000 * flops_6n(TINYLLAMA) / 312e12 == pytest.approx(50.8, abs=0.05)


def test_attention_of_palms_convention():
    assert flops_6n_attention(TINYLLAMA, 2048) - flops_6n(TINYLLAMA) == 12 * 22 * 2048 * 2048


def test_memory_grows_as_it_should():
    states = 16 * 951_983_872
    plain = training_memory(PAPER, 4, 2048)
    assert states < training_memory(PAPER, 1, 2048, checkpointing=True) < training_memory(PAPER, 1, 2048) < plain
    assert training_memory(PAPER, 4, 2048, "bf16") < plain
    doubled = training_memory(PAPER, 8, 2048) - plain
    assert doubled == pytest.approx(training_memory(PAPER, 12, 2048) - training_memory(PAPER, 8, 2048))
