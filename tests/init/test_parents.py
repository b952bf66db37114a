"""Opening models to inherit from, and refusing incompatible ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.safetensors_folder import LazyState
from tinylm_ablate.formats.tensors import tensor_sizes
from tinylm_ablate.init.parents import Parent, check_parent, open_parent

SHAPE = Shape(2, 16, 24, 4, 2, 4, 40, norm_eps=1e-6)
SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 4, "vocab_size": 40,
}  # fmt: skip


def add_tokenizer(folder: Path) -> None:
    Tokenizer(models.BPE({chr(97 + i): i for i in range(26)}, [])).save(str(folder / "tokenizer.json"))


def save(folder: Path, kind: str = "Llama", shards: str = "1GB", **settings: Any) -> Path:
    """Save a tiny random model with transformers."""
    import transformers

    model: Any = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**{**SIZES, **settings}))
    model.save_pretrained(folder, max_shard_size=shards)
    add_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("parents") / "llama")


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "llama"))


def opened(folder: Path) -> Parent:
    return open_parent(str(folder), folder.parent / "runs")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        opened(folder)
    return str(caught.value)


def edit(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def test_a_folder_of_transformers_is_read_unchanged(folder: Path) -> None:
    parent = opened(folder)
    assert parent.shape == SHAPE
    assert dict(parent.state.sizes if isinstance(parent.state, LazyState) else {}) == tensor_sizes(SHAPE)
    for name, weight in load_file(folder / "model.safetensors").items():
        assert torch.equal(parent.state[name], weight)
    assert parent.vocabulary is not None
    assert parent.vocabulary.size == 26
    assert "2 layers, width 16" in parent.description
    assert check_parent(parent, replace(SHAPE, depth=5, width=8, heads=2, kv_heads=1, vocab_size=99)) == []


def test_shards_and_one_file_are_the_same_model(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "sharded", max_shard_size="4KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    whole, sharded = opened(folder), opened(tmp_path / "sharded")
    assert whole.state.keys() == sharded.state.keys()
    assert all(torch.equal(whole.state[name], sharded.state[name]) for name in whole.state)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"tie_word_embeddings": True}, replace(SHAPE, tied=True)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, replace(SHAPE, rope_theta=5e5)),
        ({"rms_norm_eps": 1e-5, "num_key_value_heads": 4}, replace(SHAPE, norm_eps=1e-5, kv_heads=4)),
    ],
    ids=["tied", "rope", "norm"],
)
def test_settings_are_understood(tmp_path: Path, settings: dict[str, Any], expected: Shape) -> None:
    assert opened(save(tmp_path / "model", **settings)).shape == expected


def test_settings_of_older_files_are_understood(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    for name in ("rope_parameters", "head_dim", "num_key_value_heads"):
        content.pop(name)
    (folder / "config.json").write_text(
        json.dumps({**content, "rope_theta": 5e5, "rope_scaling": None, "num_key_value_heads": 2})
    )
    assert opened(folder).shape == replace(SHAPE, rope_theta=5e5)


def test_a_tied_model_may_contain_its_head(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", tie_word_embeddings=True)
    rewrite(folder, lambda state: state.update({"lm_head.weight": state["model.embed_tokens.weight"].clone()}))
    assert opened(folder).shape.tied


def test_mistral_is_llama_within_its_window(tmp_path: Path) -> None:
    parent = opened(save(tmp_path / "model", "Mistral", sliding_window=64))
    assert parent.shape == SHAPE
    assert check_parent(parent, SHAPE, context_length=64) == []
    assert check_parent(parent, SHAPE, context_length=65) == [
        "train.context_length=65: the parent attends to 64 positions; allowed: at most as many"
    ]


@pytest.mark.parametrize(("kind", "own"), [("Qwen2", {"qkv_bias": True}), ("Qwen3", {"qk_norm": True})])
def test_biases_and_norms_of_qwen_are_of_the_shape(tmp_path: Path, kind: str, own: dict[str, bool]) -> None:
    parent = opened(save(tmp_path / "model", kind))
    assert parent.shape == replace(SHAPE, **own)
    assert dict(parent.state.sizes if isinstance(parent.state, LazyState) else {}) == tensor_sizes(parent.shape)


@pytest.mark.parametrize("kind", ["Llama", "Qwen3"])
def test_other_biases_are_refused(tmp_path: Path, kind: str) -> None:
    folder = save(tmp_path / "model", kind, attention_bias=True)
    assert "attention_bias is True" in refusal(folder)
    edit(folder, attention_bias=False)  # and if the config does not state them
    assert "biases other than those of Qwen2's queries, keys and values" in refusal(folder)


def test_norms_of_queries_in_another_model_are_refused(folder: Path) -> None:
    rewrite(folder, lambda state: state.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(4)}))
    assert "norms of queries and keys in a model of another type" in refusal(folder)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters.rope_type is 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling.rope_type is 'dynamic'"),
        ({"rope_scaling": {"type": "linear", "factor": -2.0}}, "factor is -2.0"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters.low_freq_factor is missing"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; allowed: 1 to 10,000"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": "wide", "num_hidden_layers": None}, "hidden_size is 'wide'; allowed: 1 to 1,048,576"),
        ({"num_key_value_heads": 3}, "key-value heads must divide"),
        ({"num_hidden_layers": 3}, "9 tensors are missing, such as model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "an unknown tensor model.layers.1."),
        ({"intermediate_size": 32}, "is (24, 16), but config.json says (32, 16)"),
    ],
)
def test_a_config_that_does_not_fit_is_reported(folder: Path, settings: dict[str, Any], wanted: str) -> None:
    edit(folder, **settings)
    assert wanted in refusal(folder)


def test_pickles_are_refused_with_a_remedy(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "pytorch_model.bin is a pickle" in message
    assert "save_pretrained" in message


def test_damaged_folders_are_reported(folder: Path, tmp_path: Path) -> None:
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    assert "model.safetensors: not a complete safetensors file" in refusal(folder)
    weights.write_bytes(content)
    rewrite(folder, lambda state: state.update({"model.norm.weight": state["model.norm.weight"].to(torch.int8)}))
    assert "model.norm.weight is I8; quantized" in refusal(folder)
    weights.unlink()
    assert "no safetensors here" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json: not readable as JSON" in refusal(folder)
    (folder / "config.json").unlink()
    assert "has neither config.json nor model/config.json" in refusal(folder)
    assert "no such folder, and no run of that name" in refusal(tmp_path / "nowhere")


def test_damaged_shards_are_reported(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", shards="4KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {**content["weight_map"], "ghost": "model-00001-of-00001.safetensors"}}))
    assert "the index lists model-00001-of-00001.safetensors, which does not exist" in refusal(folder)
    first = sorted(folder.glob("*.safetensors"))[0].name
    index.write_text(json.dumps({"weight_map": {**content["weight_map"], "ghost": first}}))
    assert "the index lists ghost, which is not in the files" in refusal(folder)
    index.write_text(json.dumps({"weight_map": {"ghost": "../model.safetensors"}}))
    assert "not a list of files in this folder" in refusal(folder)


def test_a_run_is_found_by_its_identity(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "0123456789abcdef"
    run.mkdir(parents=True)
    with pytest.raises(UserError, match=r"train\.keep_model=true"):
        open_parent("0123456789abcdef", tmp_path / "runs")
    shutil.move(folder, run / "model")
    (run / "config.yaml").write_text("seed: 0\n")
    by_name, by_path = open_parent("0123456789abcdef", tmp_path / "runs"), open_parent(str(run), tmp_path / "elsewhere")
    assert by_name.shape == by_path.shape == SHAPE
    assert by_name.fingerprint == by_path.fingerprint
    shutil.move(run / "model" / "tokenizer.json", run / "tokenizer.json")
    assert open_parent("0123456789abcdef", tmp_path / "runs").vocabulary is not None


def test_without_a_tokenizer_no_child_fits(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder.parent / "tokenizer.json").write_text("of something else")
    assert any("no tokenizer.json" in mistake for mistake in check_parent(opened(folder), SHAPE))


def test_the_fingerprint_depends_on_the_content(folder: Path, tmp_path: Path) -> None:
    before = opened(folder).fingerprint
    assert opened(Path(shutil.copytree(folder, tmp_path / "copy"))).fingerprint == before
    edit(folder, transformers_version="0.0")
    assert opened(folder).fingerprint == before
    rewrite(folder, lambda state: state["model.norm.weight"].mul_(2))
    assert opened(folder).fingerprint != before
