"""Scoring with several models at once compared with each alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tests.arch.test_decoder import LLAMA, random_decoder
from tests.measure.conftest import SmallVocabulary, Texts
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.arch.stacking import stacked
from tinylm_ablate.measure.bits import bits
from tinylm_ablate.measure.cloze import Question, answer, answers_by_run, questions
from tinylm_ablate.measure.scoring import Continuing, Reader, token_losses


def test_a_decoder_of_several_runs_scores_as_each_alone() -> None:
    draw = np.random.default_rng(0)
    sequences = [draw.integers(0, LLAMA.vocab_size, length).tolist() for length in (1, 2, 9, 40, 17)]
    decoders = [random_decoder(LLAMA, seed) for seed in range(3)]
    setting = {"context_length": 16, "vocab_size": LLAMA.vocab_size, "device": "cpu"}
    together = token_losses(stacked(decoders), sequences, **setting)
    for run, decoder in enumerate(decoders):
        for found, expected in zip(together, token_losses(decoder, sequences, **setting), strict=True):
            np.testing.assert_allclose(found[run], expected, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=["llama", "PanGu-pi"])
def decoders(request: pytest.FixtureRequest, vocabulary: SmallVocabulary) -> list[Decoder]:
    """Three models each of two shapes: the plain one, and one with every option of the decoder."""
    shape = Shape(depth=2, width=32, ffn_width=48, heads=4, kv_heads=2, head_dim=8, vocab_size=vocabulary.size)
    if request.param == "PanGu-pi":
        shape = dataclasses.replace(shape, activations=2, shortcuts=1, shortcut_ratio=4, qk_norm=True, tied=True)
    return [random_decoder(shape, seed) for seed in range(3)]


def test_bits_per_byte_of_several_runs_equal_those_of_each_alone(
    decoders: list[Decoder], vocabulary: SmallVocabulary, texts: Texts
) -> None:
    together = bits(Reader(stacked(decoders), vocabulary, 32, "cpu"), texts, 2000)  # type: ignore[arg-type]
    values = set()
    for decoder, found in zip(decoders, together, strict=True):
        (expected,) = bits(Reader(decoder, vocabulary, 32, "cpu"), texts, 2000)  # type: ignore[arg-type]
        assert found.metrics == pytest.approx(expected.metrics, abs=1e-4)
        assert [row["document"] for row in found.rows] == [row["document"] for row in expected.rows]
        values.add(found.metrics["test/bits_per_byte/all"])
    assert len(values) == 3


def test_answers_of_several_runs_equal_those_of_each_alone(
    decoders: list[Decoder], vocabulary: SmallVocabulary, texts: Texts
) -> None:
    """Contexts of several lengths, and a choice that is longer than the context and truncated."""
    asked = questions(texts, "test", "en", 12, 20, 10)  # type: ignore[arg-type]
    asked.append(Question("en", "long", "the", (" oneword" * 12, " two", " three", " four"), 0))
    together = answers_by_run(Reader(Continuing(stacked(decoders)), vocabulary, 24, "cpu"), asked)  # type: ignore[arg-type]
    for decoder, found in zip(decoders, together, strict=True):
        expected = answer(Reader(Continuing(decoder), vocabulary, 24, "cpu"), asked)  # type: ignore[arg-type]
        assert [row["question"] for row in found] == [row["question"] for row in expected]
        np.testing.assert_allclose([row["margin"] for row in found], [row["margin"] for row in expected], atol=1e-4)
    assert torch.is_grad_enabled()
