"""A small trained model, so that its units matter: with random weights, all are equally useful."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.formats.huggingface import to_huggingface
from tinylm_ablate.init.calibration import Calibration
from tinylm_ablate.init.parents import Parent

TRAINED = Shape(depth=3, width=32, ffn_width=32, heads=4, kv_heads=2, head_dim=8, vocab_size=64)
LENGTH = 32


@pytest.fixture(scope="session")
def puzzle() -> np.ndarray:
    """Return tokens that mostly follow from one of the two tokens before."""
    draw = np.random.default_rng(0)
    after, later = draw.permutation(64), draw.permutation(64)
    tokens, kind = draw.integers(0, 64, 60_000), draw.random(60_000)
    for i in range(2, len(tokens)):
        if kind[i] < 0.9:
            tokens[i] = after[tokens[i - 1]] if kind[i] < 0.4 else later[tokens[i - 2]]
    return tokens


@pytest.fixture
def calibration(puzzle: np.ndarray) -> Callable[[int], Calibration]:
    """``calibration(n)`` returns n sequences of the puzzle."""
    return lambda sequences: Calibration(LENGTH, sequences, f"puzzle{sequences}", lambda: puzzle)


@pytest.fixture(scope="session")
def _trained(puzzle: np.ndarray) -> Parent:
    torch.manual_seed(0)
    decoder = Decoder(TRAINED)
    for parameter in decoder.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, 0.15)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=4e-3)
    draw = np.random.default_rng(1)
    for _ in range(180):
        rows = np.stack([puzzle[start : start + LENGTH + 1] for start in draw.integers(0, 50_000, 32)])
        batch = torch.from_numpy(rows)
        loss = decoder.loss(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss.detach()) < 2.2  # 4.16 is chance
    return Parent("trained", Path("nowhere"), TRAINED, to_huggingface(decoder.state_dict(), TRAINED), None)


@pytest.fixture
def trained(_trained: Parent) -> Parent:
    """A model that was trained on the puzzle, with a copy of its weights."""
    return replace(_trained, state={name: weight.clone() for name, weight in _trained.state.items()})


@pytest.fixture
def planted(trained: Parent) -> Callable[[str], Parent]:
    """``planted(axis)`` returns it with a unit of an axis that writes noise: channel 1, key-value group 0 of layer 1 (heads 0
    and 1), or FFN neuron 3 of layer 2. A unit without effect would not suffice: some learned ones cost under 0.001 nats."""
    places = {
        "width": ("model.embed_tokens.weight", slice(1, 2)),
        "heads": ("model.layers.1.self_attn.o_proj.weight", slice(0, 16)),
        "ffn": ("model.layers.2.mlp.down_proj.weight", slice(3, 4)),
    }

    def plant(axis: str) -> Parent:
        name, columns = places[axis]
        noise = torch.randn(trained.state[name].shape, generator=torch.Generator().manual_seed(5))
        trained.state[name][:, columns] = 2 * noise[:, columns]
        return trained

    return plant
