"""Resolution of "auto" for a whole grid."""

from __future__ import annotations

import pytest

from tests.helpers import TINY
from tinylm_ablate.config import Config
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.parts import even
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

AUTO = [*TINY, "evaluate.max_bytes=auto", "evaluate.cloze_questions=auto"]


def cells(*arms: str) -> list[tuple[Config, Settled]]:
    configs = [compose([*AUTO, *arm.split()]) for arm in arms]
    return [(config, settle(config)) for config in configs]


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a CPU with instructions for bf16."""
    monkeypatch.setattr("tinylm_ablate.settle.fast_bf16", lambda _: True)


@pytest.mark.usefixtures("fast")
def test_arms_of_two_widths_compute_in_one_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    alone = cells("arch.width=16", "arch.width=32", "arch.width=32 train.precision=bf16")
    assert [settled.precision for _, settled in alone] == ["fp32", "bf16", "bf16"]
    found = even(alone)
    assert [settled.precision for settled in found] == ["fp32", "fp32", "bf16"]
    assert "precision=auto is fp32 for every arm" in "".join(capsys.readouterr())
    named = settle(compose([*AUTO, "arch.width=32", "train.precision=fp32"]))
    assert [settled.identity for settled in found] == [alone[0][1].identity, named.identity, alone[2][1].identity]


@pytest.mark.usefixtures("fast")
def test_arms_that_agree_keep_their_arithmetic() -> None:
    alone = cells("arch.width=32", "arch.width=64")
    assert [settled.identity for settled in even(alone)] == [settled.identity for _, settled in alone]
    assert {settled.precision for settled in even(alone)} == {"bf16"}


@pytest.mark.usefixtures("fast")
def test_a_parent_counts_as_an_arm() -> None:
    ((_, child),) = alone = cells("init=inherit init.parent_width=64 init.parent_depth=3")
    assert child.parent is not None and (child.precision, child.parent.precision) == ("fp32", "bf16")
    (found,) = even(alone)
    assert found.parent is not None and (found.precision, found.parent.precision) == ("fp32", "fp32")


def test_every_arm_is_measured_on_the_text_of_the_largest_budget() -> None:
    alone = cells("train.tokens=61440", "train.tokens=1024000", "train.tokens=61440 evaluate.max_bytes=7000")
    amounts = [(settled.config.evaluate.max_bytes, settled.config.evaluate.cloze_questions) for _, settled in alone]
    assert amounts == [(25_000, 50), (200_000, 200), (7000, 50)]
    found = [(settled.config.evaluate.max_bytes, settled.config.evaluate.cloze_questions) for settled in even(alone)]
    assert found == [(200_000, 200), (200_000, 200), (7000, 200)]


def test_every_arm_is_measured_along_its_run_on_the_same_text() -> None:
    alone = cells("train.tokens=61440 evaluate.every=0.5", "train.tokens=1024000 evaluate.every=0.5", "train.tokens=1024000")
    found = [settled.config.evaluate.every_bytes for settled in even(alone)]
    assert found[:2] == [100_000, 100_000]


def test_every_arm_trains_on_the_text_of_the_largest_budget(capsys: pytest.CaptureFixture[str]) -> None:
    alone = cells("train.tokens=61440", "train.tokens=4096000", "train.tokens=61440 data=default")
    assert [settled.config.data.source for _, settled in alone] == ["default", "large", "default"]
    found = even(alone)
    assert [settled.config.data.source for settled in found] == ["large", "large", "default"]
    assert found[0].text == found[1].text != found[2].text and found[1].identity == alone[1][1].identity
    assert "data=auto is the large text for every arm" in "".join(capsys.readouterr())
    assert [settled.text for settled in even(alone[::2])] == [settled.text for _, settled in alone[::2]]


def test_a_share_of_the_budget_is_measured_as_the_whole() -> None:
    whole, share = cells("train.tokens=204800", "train.tokens=204800 train.share=0.1")
    assert whole[1].config.evaluate == share[1].config.evaluate
    assert whole[1].config.evaluate.max_bytes == 100_000
    assert whole[0].evaluate.max_bytes == "auto", "the config that was settled is left as it was"
