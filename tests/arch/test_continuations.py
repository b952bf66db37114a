"""Continuations of one text in one pass compared with separate sequences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate.arch.continuations import Layout, through
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape

SHAPES = {
    "llama": Shape(depth=2, width=24, ffn_width=40, heads=3, kv_heads=3, head_dim=8, vocab_size=50),
    "biased": Shape(depth=2, width=32, ffn_width=40, heads=4, kv_heads=4, head_dim=8, vocab_size=50, qkv_bias=True),
    "grouped and normed": Shape(
        depth=2, width=32, ffn_width=40, heads=4, kv_heads=2, head_dim=8, vocab_size=50, qk_norm=True
    ),
    "pangu": Shape(
        depth=2, width=32, ffn_width=40, heads=4, kv_heads=4, head_dim=8, vocab_size=50, activations=2, shortcuts=1,
        shortcut_ratio=4,
    ),
}  # fmt: skip


def decoder(shape: Shape) -> Decoder:
    torch.manual_seed(0)
    made = Decoder(shape)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize("name", SHAPES)
@settings(max_examples=15)
@given(
    texts=st.lists(st.integers(0, 70), min_size=1, max_size=3),
    padding=st.integers(0, 3),
    count=st.integers(1, 4),
    length=st.integers(1, 9),
)
def test_states_equal_those_of_each_sequence_alone(name: str, texts: list[int], padding: int, count: int, length: int) -> None:
    model = decoder(SHAPES[name])
    text = max(texts) + padding
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(50, (len(texts), text + count * length), generator=draw)
    layout = Layout(torch.tensor(texts), text, count, length)
    with torch.no_grad():
        found = through(model, model.embedding(tokens), model.blocks, layout)
        for row, size in enumerate(texts):
            own = tokens[row, text:].view(count, length)
            whole = torch.cat((tokens[row, :size].expand(count, -1), own), dim=1)
            expected = model.through(model.embedding(whole), model.blocks)
            ours = found[row, text:].view(count, length, -1)
            torch.testing.assert_close(ours, expected[:, size:], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found[row, :size], expected[0, :size], rtol=1e-4, atol=1e-5)
