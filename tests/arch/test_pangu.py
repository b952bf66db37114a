"""PanGu-pi's modules compared with their formulas, and with the Llama block when disabled."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.pangu import AugmentedShortcuts, SeriesActivation
from tinylm_ablate.arch.shapes import Shape

SHAPE = Shape(depth=2, width=32, ffn_width=56, heads=4, kv_heads=4, head_dim=8, vocab_size=101)


def test_series_activation_is_its_sum():
    series = SeriesActivation(3, 5)
    torch.nn.init.normal_(series.scales)
    torch.nn.init.normal_(series.shifts)
    gate = torch.randn(2, 7, 5)
    a, b = series.scales.view(3, 5), series.shifts.view(3, 5)
    torch.testing.assert_close(series(gate), sum(F.silu(a[i] * gate + b[i]) for i in range(3)))


def test_shortcuts_are_the_sum_of_bottlenecks():
    shape = dataclasses.replace(SHAPE, shortcuts=3, shortcut_ratio=8)
    shortcuts = AugmentedShortcuts(shape)
    torch.nn.init.normal_(shortcuts.down.weight)
    torch.nn.init.normal_(shortcuts.up.weight)
    hidden = torch.randn(2, 7, 32)
    downs, ups = shortcuts.down.weight.split(4), shortcuts.up.weight.split(4, dim=1)
    one_by_one = sum(F.gelu(hidden @ down.mT) @ up.mT for down, up in zip(downs, ups, strict=True))
    torch.testing.assert_close(shortcuts(hidden), one_by_one, rtol=1e-4, atol=1e-4)


def test_without_its_modules_the_block_is_llamas():
    names = set(Decoder(SHAPE).state_dict())
    assert not any("shortcuts" in name or "activation" in name for name in names)
    pangu = Decoder(dataclasses.replace(SHAPE, activations=2, shortcuts=1))
    assert set(pangu.state_dict()) > names


def test_terms_and_shortcuts_of_zero_do_not_change_the_function():
    generator = torch.Generator().manual_seed(0)
    llama = Decoder(SHAPE)
    for parameter in llama.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    pangu = Decoder(dataclasses.replace(SHAPE, activations=3, shortcuts=1, shortcut_ratio=4))
    pangu.load_state_dict(llama.state_dict(), strict=False)
    for layer in pangu.layers:
        torch.nn.init.ones_(layer.ffn.activation.scales[:56])
    tokens = torch.randint(101, (2, 9), generator=generator)
    torch.testing.assert_close(pangu(tokens), llama(tokens))


def test_vectors_of_the_series_are_not_matrices():
    """Weight decay and Muon recognize matrices by their dimensions."""
    pangu = Decoder(dataclasses.replace(SHAPE, activations=2))
    assert all(p.ndim == 1 for name, p in pangu.named_parameters() if "activation" in name)
