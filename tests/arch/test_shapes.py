"""Shapes compared with the paper's printed numbers and the counts of public models."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinylm_ablate.arch.shapes import (
    Shape,
    baseline_parameters,
    embedding_head_share,
    flops_per_token,
    matrices,
    parameters,
    plain,
    resolve,
)
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.scale import at_scale

TABLE_2 = {40: 1280, 30: 1536, 20: 1792, 15: 2048, 9: 2560}
TABLE_1 = {
    8000: (24, 2.97, 964.6), 16000: (23, 6.01, 954.3), 32000: (22, 11.79, 972.6), 48000: (20, 18.07, 952.0),
    72000: (18, 26.88, 960.0), 100883: (15, 38.19, 946.5),
}  # fmt: skip
PUBLIC = {
    "TinyLlama-1.1B": (Shape(22, 2048, 5632, 32, 4, 64, 32000), 1_100_048_384),
    "MobileLLM-125M": (Shape(30, 576, 1536, 9, 3, 64, 32000, tied=True), 124_635_456),
    "MobileLLM-1B": (Shape(54, 1280, 3584, 20, 5, 64, 32000, tied=True), 1_005_461_760),
    "Sheared-LLaMA-1.3B": (Shape(24, 2048, 5504, 16, 16, 128, 32000), 1_345_423_360),
    "SmolLM2-135M": (Shape(30, 576, 1536, 9, 3, 64, 49152, tied=True), 134_515_008),
    "Qwen2-0.5B": (Shape(24, 896, 4864, 14, 2, 64, 151936, tied=True, qkv_bias=True), 494_032_768),
    "Qwen3-0.6B": (Shape(28, 1024, 3072, 16, 8, 128, 151936, tied=True, qk_norm=True), 596_049_920),
    "the paper's LLM1B.py": (Shape(20, 1792, 4864, 14, 14, 128, 48000), 951_983_872),
}


@pytest.mark.parametrize("name", ["paper", "s4", "s8", "s16", "s32"])
def test_auto_widths_are_those_of_table_2(name, scale_of, arch_of):
    scale = scale_of(name)
    vocab_size = at_scale("48000/s", scale.factor)
    shapes = [resolve(arch_of(depth=depth), scale, vocab_size) for depth in TABLE_2]
    assert [shape.width for shape in shapes] == [width // scale.factor for width in TABLE_2.values()]
    assert [shape.ffn_width for shape in shapes] == [width // scale.factor for width in (3584, 4096, 4864, 5632, 6912)]
    assert all(shape.heads * shape.head_dim == shape.width and shape.kv_heads == shape.heads for shape in shapes)


@pytest.mark.parametrize("vocab_size", TABLE_1)
def test_table_1_at_the_papers_scale(vocab_size, scale_of, arch_of):
    depth, share, millions = TABLE_1[vocab_size]
    for width in ("auto", "1792/s"):
        shape = resolve(arch_of(depth=depth, width=width), scale_of("paper"), vocab_size)
        assert (shape.width, shape.heads, shape.head_dim, shape.ffn_width) == (1792, 14, 128, 4864)
        assert embedding_head_share(shape) == pytest.approx(share, abs=0.02)
        assert round(parameters(shape)["total"] / 1e6, 1) == millions


@pytest.mark.parametrize(("name", "tolerance"), [("s4", 0.02), ("s8", 0.02), ("s16", 0.05), ("s32", 0.07)])
def test_the_dial_preserves_the_shares_of_table_1(name, tolerance, scale_of, arch_of):
    scale = scale_of(name)
    for vocab_size, (depth, share, _) in TABLE_1.items():
        shape = resolve(arch_of(depth=depth, width="1792/s"), scale, at_scale(f"{vocab_size}/s", scale.factor))
        assert embedding_head_share(shape) == pytest.approx(share, abs=tolerance)


@pytest.mark.parametrize("name", PUBLIC)
def test_counts_of_public_models(name):
    shape, count = PUBLIC[name]
    counts = parameters(shape)
    assert counts["total"] == count == sum(counts.values()) - counts["total"]
    assert (counts["head"] == 0) == shape.tied


def test_the_baseline_of_a_scale_has_the_named_shape(scale_of, arch_of):
    for name in ("paper", "s4", "s8", "s16", "s32"):
        scale = scale_of(name)
        shape = resolve(arch_of(width="1792/s"), scale, at_scale("48000/s", scale.factor))
        assert baseline_parameters(scale) == parameters(shape)["total"]


@pytest.mark.parametrize(("name", "sizes"), [("paper", (128, 64, 32)), ("s16", (8, 4, 2)), ("s32", (8, 4, 2))])
def test_head_sizes_of_table_12_keep_their_ratio(name, sizes, scale_of, arch_of):
    scale = scale_of(name)
    shapes = [resolve(arch_of(width="1792/s", head_dim=f"{size}/s"), scale, 1500) for size in (128, 64, 32)]
    assert tuple(shape.head_dim for shape in shapes) == sizes
    assert len({parameters(shape)["total"] for shape in shapes}) == 1


def test_ffn_width_is_robust_to_rounding(scale_of, arch_of):
    scale = scale_of("paper")
    assert resolve(arch_of(width=1536), scale, 48000).ffn_width == 4096
    assert resolve(arch_of(width=1792), scale, 48000).ffn_width == 4864
    assert resolve(arch_of(width=1792, ffn_width="4000/s"), scale, 48000).ffn_width == 4000
    assert resolve(arch_of(width="1792/s"), scale_of("s32"), 1500).ffn_width == 152


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(1, 60), rate=st.floats(0.5, 8), kv_heads=st.sampled_from(["auto", 1, 2, 3]),
    budget=st.integers(1_000_000, 2_000_000_000), tied=st.booleans(),
)  # fmt: skip
def test_no_other_width_is_closer_to_the_budget(depth, rate, kv_heads, budget, tied, scale_of, arch_of):
    changes = {"depth": depth, "expanding_rate": rate, "kv_heads": kv_heads, "parameters": budget, "tied": tied}
    try:
        best = resolve(arch_of(**changes), scale_of("s8"), 1000)
    except ConfigError:
        return
    distance = abs(parameters(best)["total"] - budget)
    step = best.head_dim * (1 if kv_heads == "auto" else kv_heads)
    for width in (best.width - step, best.width + step):
        if width > 0:
            other = resolve(arch_of(**changes, width=width), scale_of("s8"), 1000)
            assert distance <= abs(parameters(other)["total"] - budget)


@pytest.mark.parametrize(
    ("changes", "mistakes"),
    [
        ({"width": 100}, ["arch.width=100: 100 channels are not whole heads; allowed: a multiple of the head size 8"]),
        ({"head_dim": 7}, ["arch.head_dim=7: allowed: an even number"]),
        ({"head_dim": "16/s"}, ["arch.head_dim=16/s: 1 channels at this scale, where 128/s is 8; allowed: an even number"]),
        ({"head_dim": "wide"}, ["arch.head_dim=wide: allowed"]),
        ({"width": 64, "kv_heads": 3}, ["arch.kv_heads=3: allowed with 8 heads: auto, 1, 2, 4, 8"]),
        ({"width": 16, "shortcuts": 1}, ["arch.shortcut_ratio=32: allowed: at most the width, 16"]),
        ({"parameters": 1000}, ["arch.parameters=1000: no width reaches this budget at arch.depth=20; the smallest"]),
        ({"depth": 2000}, ["arch.parameters=auto, the paper's baseline at scale s32: 931,896: no width reaches this budget"]),
        ({"head_dim": 9, "ffn_multiple": "x"}, ["arch.head_dim=9", "arch.ffn_multiple=x: allowed"]),
        ({"width": 64, "kv_heads": "heads/3"}, ["arch.kv_heads=heads/3: allowed with 8 heads: auto, heads/2, heads/4"]),
        ({"kv_heads": "heads/0"}, ["arch.kv_heads=heads/0: allowed"]),
        ({"width": 20, "kv_heads": 0, "ffn_width": 0}, ["arch.ffn_width=0: allowed: at least 1", "arch.kv_heads=0"]),
    ],
)  # fmt: skip
def test_mistakes_are_reported_together(changes, mistakes, scale_of, arch_of):
    with pytest.raises(ConfigError) as error:
        resolve(arch_of(**changes), scale_of("s32"), 1500)
    assert len(error.value.mistakes) == len(mistakes)
    for mistake, expected in zip(error.value.mistakes, mistakes, strict=True):
        assert mistake.startswith(expected)


def test_flops_by_hand():
    shape = Shape(depth=2, width=8, ffn_width=12, heads=4, kv_heads=2, head_dim=2, vocab_size=100)
    counts = flops_per_token(shape, context_length=3)
    assert counts["projections"] == 2 * 2 * (8 * 8 + 2 * 8 * 4 + 8 * 8)
    assert counts["ffn"] == 2 * 2 * 3 * 8 * 12
    assert counts["head"] == 2 * 8 * 100
    # Three positions attend to 1 + 2 + 3 keys; each pair multiplies and adds once for the score and once for the value.
    assert 3 * counts["scores"] == 2 * (1 + 2 + 3) * 4 * 2 * 2 * 2
    assert counts["forward"] == sum(counts[part] for part in ("projections", "scores", "ffn", "shortcuts", "head"))
    assert counts["training"] == 3 * counts["forward"]
    tied = dataclasses.replace(shape, tied=True)
    assert flops_per_token(tied, 3) == counts


def test_shortcuts_and_activations_are_counted():
    shape = Shape(2, 64, 96, 4, 4, 16, 100)
    pangu = dataclasses.replace(shape, activations=3, shortcuts=2, shortcut_ratio=10)
    assert pangu.shortcut_width == 6
    assert matrices(pangu)["shortcuts.down"]["shortcut_down"] == (12, 64)
    added = {"shortcuts": 2 * 2 * 2 * 64 * 6, "activations": 2 * 2 * 3 * 96}
    before, after = parameters(shape), parameters(pangu)
    assert {part: after[part] - before[part] for part in added} == added
    assert after["total"] - before["total"] == sum(added.values())
    assert flops_per_token(pangu, 8)["shortcuts"] == 2 * added["shortcuts"]
    assert shape.is_llama and not pangu.is_llama


def test_biases_and_norms_add_no_products_and_are_omitted_when_disabled():
    shape = Shape(2, 64, 96, 4, 2, 16, 100)
    for name, added in (("qkv_bias", 2 * (4 + 2 * 2) * 16), ("qk_norm", 2 * 2 * 16)):
        other = dataclasses.replace(shape, **{name: True})
        assert parameters(other)["total"] - parameters(shape)["total"] == added
        assert flops_per_token(other, 8) == flops_per_token(shape, 8)
        assert plain(other) == {**plain(shape), name: True}
    assert not {"qkv_bias", "qk_norm"} & plain(shape).keys()
    assert plain(shape)["activations"] == 1 and plain(shape)["tied"] is False


def test_biases_and_norms_come_from_the_configuration(scale_of, arch_of):
    assert resolve(arch_of(qkv_bias=True), scale_of("s32"), 1500).qkv_bias
    assert resolve(arch_of(qk_norm=True), scale_of("s32"), 1500).qk_norm
    with pytest.raises(ConfigError) as error:
        resolve(arch_of(qkv_bias=True, qk_norm=True), scale_of("s32"), 1500)
    assert error.value.mistakes == ["arch.qk_norm=true: allowed with arch.qkv_bias=false; together no other program reads them"]


@pytest.mark.parametrize(
    "changes", [{"kv_heads": 3}, {"head_dim": 5}, {"depth": 0}, {"activations": 0}, {"qkv_bias": True, "qk_norm": True}]
)
def test_impossible_shapes_are_refused(changes):
    with pytest.raises(ValueError):
        dataclasses.replace(Shape(2, 64, 96, 4, 4, 16, 100), **changes)


def test_planning_needs_no_torch():
    code = "import sys, tinylm_ablate.arch.shapes, tinylm_ablate.arch.costs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
