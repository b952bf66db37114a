"""A settled run is data: its file round-trips."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import TINY
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Draw settings of several groups, including rounds and parents."""
    start = draw(st.sampled_from([[], ["init=gpt2"], ["init=inherit", "init.parent_depth=4"], ["init=pool"]]))
    rounds = draw(st.integers(1, 3))
    rate = draw(st.floats(1e-6, 1, exclude_min=True))
    text = draw(st.text(st.characters(categories=["L", "N"], include_characters=" -_"), max_size=12))
    return [
        *TINY, *start, "train.tokens=5120", f"rounds.count={rounds}", f"seed={draw(st.integers(0, 2**31 - 1))}",
        f"train.keep_model={str(draw(st.booleans())).lower()}", f"optimizer.scaling.base_lr={rate!r}",
        f"experiment.note='{text}'",
    ]  # fmt: skip


@settings(deadline=None, max_examples=25)
@given(overrides())
def test_any_run_round_trips(given: list[str]) -> None:
    settled = settle(compose(given))
    back = Settled.from_json(settled.to_json())
    assert back == settled
    assert (back.parent, back.previous, back.needs) == (settled.parent, settled.previous, settled.needs)
    assert type(back.shape) is type(settled.shape) and type(back.config.optimizer) is type(settled.config.optimizer)


def test_invalid_settled_runs_are_refused() -> None:
    whole = json.loads(settle(compose(TINY)).to_json())
    for broken in ("", "[]", "{}", json.dumps(whole | {"steps": "many"}), json.dumps(whole | {"shape": None})):
        with pytest.raises(ValueError, match="validation error"):
            Settled.from_json(broken)


def test_every_field_is_in_the_file() -> None:
    whole = json.loads(settle(compose(TINY)).to_json())
    assert whole.keys() == {field.name for field in dataclasses.fields(Settled)}
