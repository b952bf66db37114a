"""A child cut from a parent: layers, neurons and rows together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
from tinylm_ablate.formats.tensors import tensor_sizes
from tinylm_ablate.init import inherit as module
from tinylm_ablate.init.inherit import inherit, open_scores
from tinylm_ablate.init.layer_choice import choose_layers
from tinylm_ablate.init.neurons import Scores, score
from tinylm_ablate.init.parents import Parent

PARENT = Shape(depth=6, width=32, ffn_width=24, heads=4, kv_heads=4, head_dim=8, vocab_size=320)
INIT: Any = SimpleNamespace(method="inherit", criterion="l2", keep_first=2, keep_last=1, sigma=0.02)


def vocabulary(size: int) -> FolderVocabulary:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator([f"word{i * 7919} other{i * 104729}" for i in range(40)], trainer)
    return FolderVocabulary(tokenizer, frozenset({0}), 0, f"v{size}")


def parent(**changes: Any) -> Parent:
    shape = replace(PARENT, **changes)
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(size, generator=generator) * 0.2 + (len(size) == 1) for name, size in tensor_sizes(shape).items()
    }
    return Parent("parent", Path("nowhere"), shape, state, vocabulary(shape.vocab_size))


def child(**changes: Any) -> Shape:
    return replace(
        PARENT, **{"depth": 4, "width": 16, "ffn_width": 12, "heads": 2, "kv_heads": 2, "vocab_size": 300, **changes}
    )


def logits(shape: Shape, state: dict[str, torch.Tensor]) -> torch.Tensor:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=shape.width, intermediate_size=shape.ffn_width, num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.eval().load_state_dict(state)
    with torch.no_grad():
        result: torch.Tensor = model(torch.arange(20).reshape(2, 10)).logits
    return result


def test_a_child_of_the_parents_shape_is_the_parent() -> None:
    source = parent()
    state, record = inherit(source, PARENT, vocabulary(320), INIT, seed=0)
    assert state.keys() == source.state.keys()
    assert all(torch.equal(state[name], source.state[name]) for name in state)
    assert record["vocabulary"]["copied_percent"] == 100
    assert record["neurons"]["kept_score_percent"] == pytest.approx({"width": 100, "heads": 100, "ffn": 100})


@pytest.mark.parametrize(
    "changes",
    [{}, {"depth": 9}, {"tied": False, "kv_heads": 1}, {"vocab_size": 330}, {"width": 32}],
    ids=["smaller", "deeper", "grouped", "larger vocabulary", "narrow heads"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_child_has_its_own_sizes_in_single_precision(changes: dict[str, Any], dtype: torch.dtype) -> None:
    source = parent()
    source = replace(source, state={name: weight.to(dtype) for name, weight in source.state.items()})
    shape = child(**changes)
    state, record = inherit(source, shape, vocabulary(shape.vocab_size), INIT, seed=0)
    assert {name: tuple(weight.shape) for name, weight in state.items()} == tensor_sizes(shape)
    assert all(weight.dtype == torch.float32 for weight in state.values())
    assert json.loads(json.dumps(record)) == record
    assert logits(shape, state).isfinite().all()


def test_tied_parents_have_tied_and_untied_children() -> None:
    source = parent(tied=True)
    untied, _ = inherit(source, child(), vocabulary(300), INIT, seed=0)
    tied, _ = inherit(source, child(tied=True), vocabulary(300), INIT, seed=0)
    assert "lm_head.weight" not in tied
    assert torch.equal(untied["model.embed_tokens.weight"], tied["model.embed_tokens.weight"])
    assert torch.equal(untied["lm_head.weight"], untied["model.embed_tokens.weight"])
    with pytest.raises(ConfigError, match=r"arch\.tied=true"):
        inherit(parent(), child(tied=True), vocabulary(300), INIT, seed=0)


def test_the_record_lists_what_was_kept() -> None:
    _, record = inherit(parent(), child(), vocabulary(300), INIT, seed=0)
    assert record["layers"]["kept"] == [0, 1, 3, 5]
    assert record["layers"]["dropped"] == [2, 4]
    assert record["neurons"]["criterion"] == "l2"
    assert record["neurons"]["width"] == {"kept": 16, "of": 32}
    assert 50 < record["neurons"]["kept_score_percent"]["width"] < 100
    assert record["vocabulary"]["entries"] == 300
    assert record["parent"]["shape"]["depth"] == 6
    _, grown = inherit(parent(), child(depth=9), vocabulary(300), INIT, seed=0)
    assert grown["layers"]["repeated"] == {"2": 2, "3": 2, "4": 2}


def test_repeated_layers_are_independent_copies() -> None:
    state, _ = inherit(parent(), child(depth=9), vocabulary(300), INIT, seed=0)
    first, second = (state[f"model.layers.{layer}.mlp.up_proj.weight"] for layer in (2, 3))
    assert torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_only_fresh_rows_follow_the_seed() -> None:
    source = replace(parent(), vocabulary=replace(vocabulary(320), special_ids=frozenset(), end_of_text=None))
    first, record = inherit(source, child(), vocabulary(300), INIT, seed=0)
    again, _ = inherit(source, child(), vocabulary(300), INIT, seed=0)
    other, _ = inherit(source, child(), vocabulary(300), INIT, seed=1)
    assert record["vocabulary"]["fresh_percent"] == pytest.approx(100 / 300)
    for name in first:
        assert torch.equal(first[name], again[name])
        same = torch.equal(first[name], other[name])
        assert same != (name in {"model.embed_tokens.weight", "lm_head.weight"})
    assert not torch.equal(first["model.embed_tokens.weight"][0], first["lm_head.weight"][0])


def test_layers_and_scores_can_be_passed_in() -> None:
    source = parent()
    layers = choose_layers(6, 4, 0, 0, [0, 1, 2, 3])
    scores = score(source.state, PARENT, "l1")
    _, record = inherit(source, child(), vocabulary(300), INIT, seed=0, layers=layers, scores=scores)
    assert (record["layers"]["rule"], record["layers"]["kept"], record["neurons"]["criterion"]) == ("list", [0, 1, 2, 3], "l1")


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        inherit(parent(), child(width=40, ffn_width=99, rope_theta=5e5), vocabulary(300), INIT, seed=0)
    assert len(caught.value.mistakes) == 3
    pooled: Any = SimpleNamespace(**{**vars(INIT), "method": "pool"})
    with pytest.raises(ConfigError, match=r"arch\.depth=4: init\.method=pool"):
        inherit(parent(), child(), vocabulary(300), pooled, seed=0)
    with pytest.raises(ValueError, match="a vocabulary of 300"):
        inherit(parent(), child(vocab_size=310), vocabulary(300), INIT, seed=0)


def test_scores_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parent()
    first = open_scores([source], "l1", tmp_path)[0]
    louder = replace(source, state={name: 2 * weight for name, weight in source.state.items()})
    assert torch.equal(open_scores([louder], "l1", tmp_path)[0].width, 2 * first.width)
    monkeypatch.setattr(module, "score", lambda *_: pytest.fail("computed again"))
    again = open_scores([source], "l1", tmp_path)[0]
    assert torch.equal(first.width, again.width)
    made = Scores("taylor", first.width, first.heads, first.kv_heads, first.ffn * 2)
    own = open_scores([source], "taylor", tmp_path, compute=lambda _: [made], variant="text")[0]
    assert torch.equal(own.ffn, first.ffn * 2)
    assert len(list((tmp_path / "scores").glob("*.safetensors"))) == 3
