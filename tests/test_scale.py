"""The dial."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.scale import at_scale, is_dial


@pytest.mark.parametrize(
    ("value", "factor", "size"),
    [
        ("1792/s", 32, 56),
        ("4864/s", 32, 152),
        ("48000/s", 32, 1500),
        ("100883/s", 32, 3153),
        ("100883/s", 1, 100883),
        (77, 32, 77),
    ],
)
def test_sizes_of_the_paper(value: int | str, factor: int, size: int) -> None:
    assert at_scale(value, factor) == size


def test_a_minimum_applies_to_a_dial_but_not_to_a_number() -> None:
    assert at_scale("8000/s", 32, 257) == 257
    assert at_scale(250, 32, 257) == 250


@given(st.integers(1, 10**9), st.integers(1, 256))
def test_a_dial_is_rounded_to_the_nearest_integer(size: int, factor: int) -> None:
    assert abs(at_scale(f"{size}/s", factor) * factor - size) * 2 <= max(factor, 2 * (factor - size))


@pytest.mark.parametrize("text", ["s/32", "1792", "1792/t", "-3/s", "", "1.5/s"])
def test_other_texts_are_not_dials(text: str) -> None:
    assert not is_dial(text)
    with pytest.raises(ValueError, match="N/s"):
        at_scale(text, 2)
