"""Each key of the schema changes a run's identity exactly as its definition states."""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tests.helpers import TINY
from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.config import NONE, SETTLED, VALUE, Config
from tinylm_ablate.config_values import walk
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.formats.huggingface import Model, save
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS, compose
from tinylm_ablate.paths import conf_dir
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

#: Keys to which defaults of other keys refer.
REFERRED = {
    key
    for path in conf_dir().rglob("*.yaml")
    for text in re.findall(r"\$\{[^\s\"]*", path.read_text())
    for key in re.findall(r"\{([a-z_.]+)\}", text)
}

RULES = {key: rule for key, _, rule in walk(Config())}

_FIXED = ["train.precision=fp32", "tracking=none"]
_TINY = [*TINY, *_FIXED]
_PARENT = ["init.parent_depth=3", "init.parent_width=32", "init.parent_ffn_width=48", "init.keep_first=1", "init.keep_last=1"]

#: Contexts that make different keys active.
CONTEXTS = {
    "tiny": _TINY,
    "at the scale": _FIXED,
    "inherits": [*_TINY, "init=inherit", *_PARENT, "init.criterion=learned", "init.masks.steps=1"],
    "inherits from a folder": [*_TINY, "init=inherit", *_PARENT[3:], "init.parent={parent}"],
    "pools": [*_TINY, "arch.width=64", "arch.head_dim=8", "init=pool", "arch.kv_heads=heads/2"],
    "two rounds": [*_TINY, "rounds=two", "rounds.parts=1", "rounds.rule=loss"],
    "constant": [*_TINY, "optimizer.schedule=constant"],
    "own parts": [
        *_TINY,
        "data.source=own",
        "data.own={{_target_:tests.parts.Part}}",
        "optimizer.name=own",
        "optimizer.own={{_target_:tests.parts.Part}}",
        "optimizer.schedule=own",
        "optimizer.own_schedule={{_target_:tests.parts.Part}}",
        "init.rule=own",
        "init.own={{_target_:tests.parts.Part}}",
    ],
    "muon": [*_TINY, "optimizer=muon", "optimizer.schedule=wsd"],
    "pangu": [*_TINY, "arch=pangu_pi", "arch.shortcut_ratio=4"],
    "files": [*_TINY, "data=files", "data.path={text}"],
    "mixture": [
        *_TINY,
        "data.source=mixture",
        "data.sources={{one:'{text}',two:'{other_text}'}}",
        "data.weights={{one:0.5,two:0.5}}",
    ],
    "hub": [*_TINY, "data=hub", "data.name={hub}"],
    "compact": [*_TINY, "tokenizer=compact", "tokenizer.source={tokenizer}"],
}

#: A user-defined part with another setting than in the context "own parts".
_PART = {"_target_": "tests.parts.Part", "amount": 2.0}

#: Keys that must be empty while they are inactive.
EMPTY = {"data.weights", "init.own", "optimizer.own", "optimizer.own_schedule"}

#: Other values of keys whose type does not imply one.
VALUES: dict[str, list[Any]] = {
    "arch.head_dim": [4, 8],
    "arch.kv_heads": [1, "heads/2"],
    "arch.own_attention": [_PART],
    "arch.own_ffn": [_PART],
    "arch.parameters": [400_000],
    "arch.qk_norm": [True],
    "arch.qkv_bias": [True],
    "arch.rope_scaling": ["linear/2"],
    "arch.tied": [True],
    "cache_dir": ["{elsewhere}"],
    "data.encoding": ["cp1252"],
    "data.language": ["en"],
    "data.language_column": ["language"],
    "data.languages": [["en"]],
    "data.name": ["{other_hub}"],
    "data.near_duplicates": [0.8],
    "data.own": [_PART],
    "data.path": ["{other_text}"],
    "data.revision": ["v1"],
    "data.split": ["test"],
    "data.sources": [{"one": "default"}],
    "data.subset": ["other"],
    "data.text_column": ["body"],
    "data.weights": [{"one": 0.25, "two": 0.75}],
    "evaluate.decode.llama_cpp": [["q8_0"]],
    "evaluate.effective_dimension": [0.8],
    "evaluate.every_measures": [["cloze"]],
    "evaluate.limit": [7],
    "evaluate.measures": [["cloze"]],
    "evaluate.quantized": [["q8_0"]],
    "evaluate.shots": [3],
    "evaluate.task_folder": ["folder"],
    "evaluate.tasks": [["paper"]],
    "evaluate.own": [[_PART]],
    "experiment.correlate": [["shape.depth"]],
    "experiment.figures": [["matrix_std"]],
    "experiment.name": ["other"],
    "experiment.note": ["words"],
    "experiment.paper": ["table02_depth_width"],
    "experiment.paper_axis": [["depth"]],
    "experiment.title": ["words"],
    "folder": ["folder"],
    "generate.top_k": [7],
    "grid.arms": [{"a": ["arch.depth=1"]}],
    "grid.exclude": [["arch.depth=1"]],
    "grid.experiments": [["demo"]],
    "grid.on_end": ["true"],
    "grid.tune_keys": [["optimizer.eps"]],
    "grid.unclaim": ["0123456789abcdef"],
    "grid.work": ["file"],
    "grid.zip": [[["arch.depth", "seed"]]],
    "init.layers": ["even", "0-1"],
    "init.own": [_PART],
    "init.parent": ["{other_parent}"],
    "model": ["folder"],
    "prompt": ["words"],
    "optimizer.own": [_PART],
    "optimizer.own_schedule": [_PART],
    "results_dir": ["elsewhere"],
    "runs_dir": ["{elsewhere}"],
    "scale.name": ["other"],
    "search.name": ["other"],
    "search.objectives": [["test/cloze/all"]],
    "search.parameters": [[1, 9_000_000]],
    "tokenizer.source": ["{other_tokenizer}"],
    "tracking.artifacts": ["folder"],
    "tracking.experiment": ["other"],
    "tracking.loggers": [["csv"]],
    "tracking.uri": ["sqlite:///other.db"],
    "train.compile": [True],
    "train.keep_checkpoints": [[0.5]],
}

#: Keys without other values that settle: a single run has one seed.
REFUSED = {"seeds"}


class Place:
    """Files named by the contexts."""

    def __init__(self, folder: Path) -> None:
        self.files = {"elsewhere": str(folder / "elsewhere"), "here": str(folder / "here")}
        for number, prefix in enumerate(("", "other_")):
            text = folder / f"{prefix}hub" / "train.jsonl"
            text.parent.mkdir()
            text.write_text(json.dumps({"text": f"A text of some length, number {number}. " * 9}) + "\n")
            self.files |= {f"{prefix}text": str(text), f"{prefix}hub": str(text.parent)}
            tokenizer = Tokenizer(models.BPE())
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            tokenizer.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(
                vocab_size=320 + number, special_tokens=["<|endoftext|>", "<|more|>"], show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            )  # fmt: skip
            words = "abcdefghijklmnopqrstuvwxyz"
            tokenizer.train_from_iterator([" ".join(a + b + c for a in words for b in words for c in words[:3])], trainer)
            path = folder / f"{prefix}tokenizer.json"
            tokenizer.save(str(path))
            self.files[f"{prefix}tokenizer"] = str(path)
            torch.manual_seed(number)
            size = tokenizer.get_vocab_size()
            decoder = Decoder(Shape(depth=3, width=32, ffn_width=48, heads=4, kv_heads=4, head_dim=8, vocab_size=size))
            for parameter in decoder.parameters():
                torch.nn.init.normal_(parameter, std=0.02)
            save(folder / f"{prefix}parent", Model(decoder.state_dict(), decoder.shape, path, 32, 0))
            self.files[f"{prefix}parent"] = str(folder / f"{prefix}parent")
        self._bases: dict[str, Settled] = {}

    def base(self, context: str) -> Settled:
        """Return the run of a context."""
        if context not in self._bases:
            self._bases[context] = settle(compose(self._overrides(context)))
        return self._bases[context]

    def changed(self, context: str, key: str, value: Any) -> Settled:
        """Return the run of a context with another value of a key, set as on the command line.

        Raises:
            ConfigError, UserError, HydraException, OmegaConfBaseException: This makes no run.
        """
        value = value.format(**self.files) if isinstance(value, str) else value
        if key in REFERRED | {"data.large_from"}:  # other values depend on it
            return settle(compose([*self._overrides(context), f"{key}={value}"]))
        config: Any = copy.deepcopy(self.base(context).config)
        *groups, name = key.split(".")
        group = config
        for part in groups:
            group = getattr(group, part)
        setattr(group, name, value)
        if key == "data.source" and value == "files":
            config.data.path = self.files["text"]
        return settle(config)

    def _overrides(self, context: str) -> list[str]:
        return [f"runs_dir={self.files['here']}", *(text.format(**self.files) for text in CONTEXTS[context])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("identity"))


def value_of(config: Config, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)


def candidates(key: str, value: Any) -> list[Any]:
    """Return other values of a key."""
    rule = RULES[key]
    found: list[Any] = list(rule.get("choices", ()))
    if key in VALUES:
        found = VALUES[key]
    elif isinstance(value, bool):
        found = [not value]
    elif isinstance(value, int):
        found += [2 * value, value + 1, value // 2, 32, 64]
    elif isinstance(value, float):
        found += [value / 2, value * 0.9, value + 0.25, 2 * value]
    elif rule.get("at_least") is not None or rule.get("above") is not None:
        found += [2, 64, 600, 4096]
    return [other for other in found if other not in (value, "heads/N") or isinstance(other, bool)]


def chain(run: Settled) -> Iterator[Settled]:
    """Return a run and all runs that it starts from."""
    yield run
    for other in run.needs:
        yield from chain(other)


def active(run: Settled, rule: dict[str, Any]) -> bool:
    return rule["active"] is None or any(rule["active"](member.config) for member in chain(run))


def changes(place: Place, key: str, most: int = 1) -> Iterator[tuple[str, Settled, Settled]]:
    """Yield pairs of runs that differ in this key, up to ``most`` per context, and a description of the change."""
    for context in CONTEXTS:
        before, count = place.base(context), 0
        for candidate in candidates(key, value_of(before.config, key)):
            try:
                after = place.changed(context, key, candidate)
            except (ConfigError, UserError, *COMPOSITION_ERRORS):
                continue
            yield f"{context}: {key}={candidate}", before, after
            count += 1
            if count == most:
                break


def with_identity(kind: str) -> list[str]:
    return [key for key, rule in RULES.items() if rule["identity"] == kind and key not in REFUSED]


def test_every_key_states_how_it_enters_the_identity() -> None:
    assert {rule.get("identity") for rule in RULES.values()} == {VALUE, SETTLED, NONE}
    assert all(rule.get("active") is None or rule["identity"] == VALUE for rule in RULES.values())
    assert set(VALUES) | REFUSED | REFERRED <= set(RULES)
    assert {"scale.batch_tokens", "train.batch_multiple", "runs_dir"} <= REFERRED


@pytest.mark.parametrize("key", with_identity(VALUE))
def test_a_value_changes_the_identity_when_it_is_active(place: Place, key: str) -> None:
    rule, seen = RULES[key], set()
    for change, before, after in changes(place, key):
        effective = active(before, rule) or active(after, rule)
        assert (after.identity != before.identity) == effective, change
        seen.add(effective)
    assert True in seen, "no context in which the key has an effect"
    if key not in EMPTY:
        assert rule["active"] is None or False in seen, "no context in which the key has none"


@pytest.mark.parametrize("key", with_identity(SETTLED))
def test_settled_keys_change_the_identity_in_some_context(place: Place, key: str) -> None:
    assert any(after.identity != before.identity for _, before, after in changes(place, key, 4))


@pytest.mark.parametrize("key", with_identity(NONE))
def test_keys_without_effect_on_the_weights_do_not_change_the_identity(place: Place, key: str) -> None:
    found = list(changes(place, key))
    assert found, "no other value makes a run in any context"
    for change, before, after in found:
        assert after.identity == before.identity, change


def test_the_number_of_seeds_is_an_axis_of_a_grid(place: Place) -> None:
    with pytest.raises(ConfigError, match="seeds=2: an axis of a multirun"):
        place.changed("tiny", "seeds", 2)
