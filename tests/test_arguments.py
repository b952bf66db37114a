"""Arguments reach Hydra with the meaning that users intend."""

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
    typed = normalize(arguments)
    return [*typed.options, *typed.overrides]


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
def test_a_prompt_is_literal(text: str) -> None:
    assert compose(normalized(f"prompt={text}")).prompt == text


def test_valid_hydra_syntax_is_unchanged() -> None:
    for argument in (
        "prompt='x y'", 'prompt="x"', "arch.depth=1,2", "-m", "init=gpt2", "data.path=my_texts", "seed=range(3)",
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
        ("train.tokens=range(1M,3M,500k)", "train.tokens=range(1000000,3000000,500000)"),
        ("search.parameters=[1M,2M]", "search.parameters=[1000000,2000000]"),
        ("data.weights={en: 40%, zh: 60%}", "data.weights={en: 0.4, zh: 0.6}"),
        ("arch.width=1792/s", "arch.width=1792/s"),
        ("+arch.depth=2", "arch.depth=2"),
        ("data.path=a, b(1).jsonl", "data.path='a, b(1).jsonl'"),
        ("data.path=~/my texts", "data.path='~/my texts'"),
        ("grid.exclude=[arm=a]", "grid.exclude=['arm=a']"),
        ("grid.exclude=['arm=a', arch.depth=4 init=gpt2]", "grid.exclude=['arm=a', 'arch.depth=4 init=gpt2']"),
        ("grid.arms={a: [], b: [arch.depth=4, lr=1e-3]}", "grid.arms={a: [], b: ['arch.depth=4', 'lr=1e-3']}"),
        ('grid.arms={a: ["init=gpt2"]}', 'grid.arms={a: ["init=gpt2"]}'),
        ("grid.arms={a: [data.weights={en: 1, zh: 2}, seed=1]}", "grid.arms={a: ['data.weights={en: 1, zh: 2}', 'seed=1']}"),
        ("grid.arms={a: [data.languages=[en,zh]]}", "grid.arms={a: ['data.languages=[en,zh]']}"),
    ],
)
def test_numbers_and_names_as_people_write_them(argument: str, expected: str) -> None:
    assert normalized(argument) == [expected]


def test_a_comma_in_a_text_separates_values_in_a_grid_only() -> None:
    assert normalized("-m", "data.path=a(1),b") == ["-m", "data.path='a(1)',b"]
    assert normalize(["data.path=a,b"]).overrides == ["data.path='a,b'"]
    assert normalize(["data.path=a,b"], grid=True).overrides == ["data.path=a,b"]


def test_the_last_of_several_values_counts_with_a_note() -> None:
    typed = normalize(["lr=1e-3", "optimizer.lr=2e-3"])
    assert typed.notes == ["note: optimizer.scaling.base_lr is set 2 times; the last value is used"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["experiment=demo"], r"experiment=demo: did you mean \+experiments=demo\?"),
        (["seeds=0,1"], r"seeds is the number of seeds, as in seeds=3; to list seeds: -m seed=0,1"),
        (["--depth", "4"], r"--depth: no such option: write arch\.depth=4"),
        (["arch.depth", "=", "4"], r"write it without spaces: arch\.depth=4"),
        (["arch.depth=4,", "5"], r"write it without spaces: arch\.depth=4,5"),
        (["prompt=Hello,", "world"], r"write it in quotes: 'prompt=Hello, world'"),
        (["prompt=Hello", "world"], r"world: not understood; .* in quotes, as in 'prompt=Hello world'"),
        (["train.tokens=2,000,000"], r"write numbers without commas, as in train\.tokens=2000000"),
        (["-m", "seeds=range(3)"], r"to list seeds: -m seed=range\(3\)"),
        (["~tracking"], r"~tracking: settings cannot be removed; set another value"),
        (["--multi"], r"--multi: no such option; did you mean --multirun\?"),
        (["--config-name", "x"], r"--config-name: no such option"),
        (["--cfg", "jo"], r"--cfg jo: allowed: job, hydra, all"),
        (["plann", "arch.depth=2"], r"plann: not understood; .* did you mean the verb plan\?"),
        (["arch.depth"], r"arch\.depth: not understood; settings are written as key=value; did you mean arch\.depth=…\?"),
        (["=20"], r"=20: not understood; settings are written as key=value"),
    ],
)
def test_invalid_arguments_are_refused_with_a_remedy(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        normalize(arguments)
