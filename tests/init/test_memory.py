"""Memory for cutting a child from a larger parent, and the decoder that adopts its tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.huggingface import take_decoder, to_huggingface

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "inherit_memory.py"


@pytest.mark.slow
def test_a_cut_needs_little_more_memory_than_the_child_and_a_shard() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--small"], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert found["shards"] >= 4
    assert found["parent_mb"] > 2.5 * found["child_mb"]
    # A second copy of the child, or the complete parent, would exceed this.
    assert found["child_mb"] < found["grown_by_mb"] <= found["aim_mb"] < found["parent_mb"]


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"qkv_bias": True}, {"qk_norm": True}], ids=str)
def test_a_decoder_adopts_the_tensors_and_can_be_trained(changes: dict[str, bool]) -> None:
    shape = Shape(2, 16, 24, 4, 2, 4, 40, **changes)
    whole = Decoder(shape)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter)
    state = {name: tensor.clone() for name, tensor in to_huggingface(whole.state_dict(), shape).items()}
    decoder = take_decoder(state, shape)
    assert not state
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in decoder.state_dict().items())
    tokens = torch.arange(12).reshape(1, 12)
    decoder.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    with pytest.raises(UserError, match="tensors are missing"):
        take_decoder({}, shape)
