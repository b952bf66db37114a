"""What people type reaches Hydra as they meant it."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tinylm_ablate.arguments import normalize
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose


def normalized(*arguments: str) -> list[str]:
    return normalize(arguments)[0]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_a_prompt_is_any_text(text: str) -> None:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if not quoted:
        (override,) = normalized(f"prompt={text}")
        parsed = OverridesParser.create().parse_override(override)
        assert OmegaConf.create({"prompt": parsed.value()}).prompt == text


@pytest.mark.parametrize(
    "text", ["Hello, world", "it's", "\\${a}", "${a}", "[1,2", "北京", "a\\'b\\", "{x: 1}", " x ", "null", "1e6", "10%"]
)
def test_a_prompt_is_taken_literally(text: str) -> None:
    assert compose(normalized(f"prompt={text}")).prompt == text


def test_what_hydra_understands_already_stays_as_it_is() -> None:
    for argument in (
        "prompt='x y'", 'prompt="x"', "arch.depth=1,2", "-m", "init=gpt2", "~tracking", "data.path=my_texts", "seed=range(3)",
        "train.threads=auto", "hydra/launcher=ray", "hydra.launcher.cpus=2", "data.path='a b'", "+experiments=demo",
    ):  # fmt: skip
        assert normalized(argument) == [argument]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("train.tokens=2M", "train.tokens=2000000"),
        ("train.tokens=1e6,2e6", "train.tokens=1000000,2000000"),
        ("train.tokens=1_000_000", "train.tokens=1000000"),
        ("data.test_share=10%", "data.test_share=0.1"),
        ("lr=1e-3", "optimizer.scaling.base_lr=1e-3"),
        ("train.tokens=1.5", "train.tokens=1.5"),
    ],
)
def test_numbers_and_names_as_people_write_them(argument: str, expected: str) -> None:
    assert normalized(argument) == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=demo"], r"experiment=demo: did you mean \+experiments=demo\?"),
        (["seeds=0,1"], r"seeds is how many seeds there are, as in seeds=3; to name them: -m seed=0,1"),
        (["--depth", "4"], r"--depth: there is no such option: write arch\.depth=4"),
        (["arch.depth", "=", "4"], r"write it without spaces: arch\.depth=4"),
        (["arch.depth=4,", "5"], r"write it without spaces: arch\.depth=4,5"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_cure(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        normalize(arguments)
