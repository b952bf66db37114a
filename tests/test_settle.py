"""Identity of runs, shares of the budget, and groups of heads."""

from __future__ import annotations

import pytest

from tests.helpers import TINY
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

POOL = ["arch.width=64", "arch.head_dim=8", "init=pool"]


def settled(*overrides: str) -> Settled:
    return settle(compose(["runs_dir=nowhere", *TINY, *overrides]))


@pytest.mark.parametrize(
    "override",
    [
        "evaluate.decode.measure=true", "evaluate.decode.new_tokens=7", "results_dir=elsewhere", "experiment.note=words",
        "experiment.correlate=[shape.depth]", "experiment.figures=[matrix_std]", "experiment.name=other", "mode=plan",
        "evaluate.max_bytes=1999", "evaluate.cloze_questions=0", "evaluate.layer_skip=1", "grid.workers=2", "train.threads=2",
    ],
)  # fmt: skip
def test_settings_without_effect_do_not_change_the_identity(override: str) -> None:
    assert settled(override).identity == settled().identity


@pytest.mark.parametrize("override", ["train.share=0.5", "seed=1", "init.std=0.03"])
def test_settings_with_effect_change_the_identity(override: str) -> None:
    assert settled(override).identity != settled().identity


def test_a_share_equals_the_same_budget_in_tokens() -> None:
    half = settled("train.share=0.5")
    assert (half.tokens, half.steps) == (256, 2)
    assert half.identity == settled("train.tokens=256").identity
    assert settled("train.share=2").tokens == 1024
    assert settled("train.tokens=12800", "train.share=0.05").tokens == 640
    # A budget near the maximum is not rounded.
    assert settled(f"train.tokens={2**63 - 1}").tokens == (2**63 - 1) // 128 * 128


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.share=0.1", "train.share=0.1: 51 of 512 tokens; allowed: at least one batch, train.batch_tokens=128"),
        ("train.share=1e-9", "train.share=1e-09: 0 of 512 tokens"),
        ("train.share=0", "train.share=0.0: allowed: a number above 0"),
    ],
)
def test_a_share_below_one_batch_is_a_mistake(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settled(override)
    assert len(caught.value.mistakes) == 1
    assert message in caught.value.mistakes[0]


def test_a_parent_trains_on_the_whole_budget_like_any_run() -> None:
    child = settled(*POOL, "arch.kv_heads=heads/2", "train.share=0.5", "seed=3")
    assert child.parent is not None
    assert child.parent.identity == settled(*POOL[:2], "seed=3").identity
    assert (child.tokens, child.parent.tokens) == (256, 512)
    # In a grid of experiments, longer training of parents to inherit from does not change it.
    longer = settled(*POOL, "arch.kv_heads=heads/2", "train.share=0.5", "seed=3", "init.parent_tokens=4096")
    assert longer.identity == child.identity


def test_a_wider_parent_has_the_dials_learning_rate_and_sigma() -> None:
    child, tuned = (
        settle(compose(["init=inherit", "init.parent_width=112", "init.parent_depth=20", *more]))
        for more in ([], ["optimizer.scaling.base_lr=0.003"])
    )
    assert child.parent is not None and tuned.parent is not None
    budget = (2 / 8) ** 0.4
    assert child.parent.learning_rate == pytest.approx(9e-3 * budget * 56 / 112)
    assert child.parent.init_std == pytest.approx(0.02 * (1792 / 112) ** 0.5)
    # Children with different rates share a parent, unless it has its own rate.
    assert tuned.parent.identity == child.parent.identity and tuned.identity != child.identity
    own = settle(compose(["init=inherit", "init.parent_width=112", "init.parent_depth=20", "init.parent_lr=0.001"]))
    assert own.parent is not None and own.parent.learning_rate == pytest.approx(0.001)


def test_below_the_papers_scale_the_sum_of_rate_and_decay_is_the_papers() -> None:
    def dialed(*overrides: str) -> Settled:
        return settle(compose(["runs_dir=nowhere", *overrides]))

    paper = dialed("scale=paper")
    assert (paper.weight_decay, paper.init_std) == (0.1, 0.02)
    for tokens in (2, 8, 52):
        run = dialed("scale=s32", f"train.tokens_per_parameter={tokens}")
        assert run.learning_rate * run.weight_decay * run.steps == pytest.approx(1e-4 * 0.1 * 50_358, rel=0.01)
        # Arms that differ in rate or batch keep their decay, and a decay can be set exactly.
        for more in ("optimizer.scaling.base_lr=0.02", "train.batch_multiple=4"):
            assert dialed("scale=s32", f"train.tokens_per_parameter={tokens}", more).weight_decay == run.weight_decay
    assert dialed("scale=s32", "optimizer.scaling.rate_sum=null").weight_decay == 0.1
    assert dialed("scale=s32", "train.tokens_per_parameter=0.01").weight_decay < 0.2


def test_the_dials_rate_is_not_extrapolated() -> None:
    budget = (2 / 8) ** 0.4  # fewer tokens per parameter than were measured count as the fewest
    small = settled("init=inherit", "init.parent_width=64")
    assert small.parent is not None
    assert small.learning_rate == pytest.approx(4 * 9e-3 * budget * (128 / 2048) ** 0.5)
    deep = 56 / 64 * (20 / 29) ** 0.5
    assert small.parent.learning_rate == pytest.approx(deep * 9e-3 * budget * (128 / 2048) ** 0.5)
    assert settled("optimizer.scaling.base_lr=0.01").learning_rate == pytest.approx(0.01 * (128 / 2048) ** 0.5)


def test_a_trained_parent_may_have_a_larger_vocabulary_and_has_the_blocks_of_llama() -> None:
    child = settled("arch=pangu_pi", "arch.shortcut_ratio=8", "init=inherit", "init.parent_vocab_size=320")
    assert child.parent is not None
    assert (child.shape.vocab_size, child.parent.shape.vocab_size) == (300, 320)
    assert (child.shape.activations, child.parent.shape.activations, child.parent.shape.shortcuts) == (2, 1, 0)
    assert child.parent.identity != settled("init=inherit").parent.identity  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"init.parent_vocab_size=320: allowed with tokenizer.kind=bpe or compact"):
        settled("init=inherit", "init.parent_vocab_size=320", "tokenizer=file", "tokenizer.source=nowhere")


@pytest.mark.parametrize(("value", "expected"), [("auto", 8), ("heads/1", 8), ("heads/2", 4), ("heads / 8", 1), ("2", 2)])
def test_key_value_heads_relative_to_the_heads(value: str, expected: int) -> None:
    shape = settled(
        "arch.width=64", "arch.head_dim=8", f"arch.kv_heads='{value}'" if "/" in value else f"arch.kv_heads={value}"
    )
    assert (shape.shape.heads, shape.shape.kv_heads) == (8, expected)


def test_an_automatic_width_divides_into_the_groups() -> None:
    for group in (2, 3, 5):
        shape = settled("arch.width=auto", f"arch.kv_heads=heads/{group}").shape
        assert shape.heads == group * shape.kv_heads


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("heads/3", "arch.kv_heads=heads/3: allowed with 8 heads: auto, heads/2, heads/4, heads/8"),
        ("heads/0", "allowed: auto, a whole number, or heads/N"),
        ("half", "allowed: auto, a whole number, or heads/N"),
    ],
)
def test_indivisible_groups_are_a_mistake(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settled("arch.width=64", "arch.head_dim=8", f"arch.kv_heads={value}")


def test_pooling_refuses_another_width() -> None:
    with pytest.raises(ConfigError, match=r"arch\.width=\d+: init\.method=pool changes key-value heads only"):
        settled("arch.width=auto", "arch.parameters=40000", "init=pool", "arch.kv_heads=heads/4")
