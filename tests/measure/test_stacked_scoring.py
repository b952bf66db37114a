"""Scoring under several models at once against each alone."""

from __future__ import annotations

import numpy as np

from tests.arch.test_decoder import LLAMA, random_decoder
from tinylm_ablate.arch.stacking import stacked
from tinylm_ablate.measure.scoring import token_losses


def test_a_decoder_of_several_runs_scores_as_each_alone() -> None:
    draw = np.random.default_rng(0)
    sequences = [draw.integers(0, LLAMA.vocab_size, length).tolist() for length in (1, 2, 9, 40, 17)]
    decoders = [random_decoder(LLAMA, seed) for seed in range(3)]
    setting = {"context_length": 16, "vocab_size": LLAMA.vocab_size, "device": "cpu"}
    together = token_losses(stacked(decoders), sequences, **setting)
    for run, decoder in enumerate(decoders):
        for found, expected in zip(together, token_losses(decoder, sequences, **setting), strict=True):
            np.testing.assert_allclose(found[run], expected, rtol=1e-5, atol=1e-6)
