"""Bad configs: each mistake has a message, and all are reported at once, before anything is spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import run_command
from tinylm_ablate.config import GROUPS
from tinylm_ablate.config_values import walk
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.diagnosis import diagnose
from tinylm_ablate.settle import settle

#: Overrides that do not compose, and their messages.
UNKNOWN = [
    ("arch.dpeth=4", "arch.dpeth: no such key; did you mean arch.depth?"),
    ("arch=lama", "arch=lama: no such choice; did you mean llama? allowed: llama, pangu_pi"),
    ("+experiments=tabel", "tabel: no such choice; did you mean table"),
    ("arch.depth=deep", "arch.depth=deep: allowed: a whole number at least 1"),
    ("arch.tied=perhaps", "arch.tied=perhaps: allowed: true, false, auto"),
    ("train.tokens=[1", "train.tokens=[1: a bracket is not closed"),
    ("nonsense=1", "nonsense: no such key"),
]

#: Overrides that compose but are impossible, and their messages.
IMPOSSIBLE = [
    (["arch.depth=0"], "arch.depth=0: allowed: a whole number at least 1"),
    (["arch.width=wide"], "arch.width=wide: allowed: auto"),
    (["arch.width=60"], "arch.width=60"),
    (["arch.head_dim=7", "arch.width=56"], "arch.head_dim=7"),
    (["arch.kv_heads=3", "arch.width=56"], "arch.kv_heads=3"),
    (["arch.parameters=1000"], "arch.parameters=1000"),
    (["arch.parameters=200000", "arch.width=32"], "arch.parameters=200000: allowed with arch.width=auto"),
    (["tokenizer.vocab_size=250"], "tokenizer.vocab_size=250: allowed: 257"),
    (["tokenizer.vocab_size=4000"], "tokenizer.vocab_size=4000: allowed: 257 (256 bytes and 1 special) to 3,153"),
    (["tokenizer=file"], "tokenizer.source=null"),
    (["tokenizer=file", "tokenizer.source=nowhere.json"], "tokenizer.source=nowhere.json"),
    (["train.tokens=1000"], "train.tokens=1000: allowed: at least one batch"),
    (["train.tokens=9223372036854775808"], "train.tokens=9223372036854775808: allowed: a whole number at least 1 and at most"),
    (["train.tokens_per_parameter=1e15"], "train.tokens_per_parameter=1e+15: allowed: at most 2^63 tokens"),
    (["train.tokens=null", "train.tokens_per_parameter=null"], "train.tokens=null: allowed: a number of tokens"),
    (["train.batch_tokens=1000"], "train.batch_tokens=1000: allowed: a multiple of train.context_length=256"),
    (["train.micro_batch=5"], "train.micro_batch=5: allowed: a divisor of the 8 sequences"),
    (["train.precision=fp8"], "train.precision=fp8: allowed: auto, fp32, bf16"),
    (["optimizer.beta2=1.0"], "optimizer.beta2=1.0: allowed: a number at least 0 and below 1"),
    (["optimizer.scaling.base_lr=-1"], "optimizer.scaling.base_lr=-1.0: allowed: a number above 0"),
    (["optimizer.scaling.exponent=4", "optimizer.scaling.base_batch_tokens=1"], "optimizer.scaling.exponent=4"),
    (["data=files"], "data.path=null: data=files needs data.path=FILE_OR_FOLDER"),
    (["data=hub"], "data.name=null: data=hub needs data.name=NAME"),
    (["data.validation_share=0.48", "data.test_share=0.48"], "data.test_share=0.48"),
    (["seed=-1"], "seed=-1: allowed: a whole number at least 0"),
    (["seeds=3"], "seeds=3: an axis of a multirun"),
    (["arch.rope_scaling=yarn/4"], "arch.rope_scaling=yarn/4: "),
    (["init=inherit", "init.parent_ffn_width=1280/s"], "arch.ffn_width=152"),
]


@pytest.mark.parametrize(("override", "message"), UNKNOWN)
def test_an_override_that_does_not_compose_is_explained(override: str, message: str) -> None:
    mistakes = diagnose([override])
    assert len(mistakes) == 1
    assert message in mistakes[0]


@pytest.mark.parametrize(("overrides", "message"), IMPOSSIBLE, ids=lambda value: value[0] if isinstance(value, list) else "")
def test_an_impossible_value_is_one_mistake(overrides: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        settle(compose([f"runs_dir={tmp_path}", *overrides]))
    assert len(caught.value.mistakes) == 1, caught.value.mistakes
    assert message in caught.value.mistakes[0]


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        settle(compose(["arch.depth=0", "train.micro_batch=5", "tokenizer.vocab_size=9", "seed=-1", "data=files"]))
    output = "\n".join(caught.value.mistakes)
    assert len(caught.value.mistakes) == 5, output
    for key in ("arch.depth", "train.micro_batch", "tokenizer.vocab_size", "seed", "data.path"):
        assert key in output


@pytest.mark.parametrize("arguments", [["arch.dpeth=4", "train.tokens=-1"], ["-m", "arch.depth=20,x,0", "train.micro_batch=5"]])
def test_the_command_reports_all_mistakes_and_exits_with_2(arguments: list[str], tmp_path: Path) -> None:
    done = run_command(f"runs_dir={tmp_path}/runs", *arguments, folder=tmp_path)
    assert done.code == 2, done.text
    assert "Traceback" not in done.err
    assert "mistake" in done.err
    assert not (tmp_path / "runs").exists()
    assert list(tmp_path.iterdir()) == []


def test_every_group_has_a_summary_and_every_key_has_help() -> None:
    assert all(node.__doc__ for node in GROUPS.values())
    for key, _, rule in walk(compose([])):
        assert not rule or rule["help"], key


def test_help_names_every_group(tmp_path: Path) -> None:
    done = run_command("--help", folder=tmp_path)
    assert done.code == 0
    for group in GROUPS:
        assert f"  {group}" in done.out
