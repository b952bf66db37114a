"""Weights and vocabulary of GGUF files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.config import Config
from tinylm_ablate.errors import ConfigError, UserError
from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
from tinylm_ablate.formats.importing import import_tokenizer
from tinylm_ablate.formats.lossless import open_tokenizer
from tinylm_ablate.formats.packaged import PACKAGED
from tinylm_ablate.formats.tensors import tensor_sizes
from tinylm_ablate.init.parents import open_parent
from tinylm_ablate.init.vocabulary_rows import map_rows
from tinylm_ablate.settle import settle

gguf = pytest.importorskip("gguf")

SHAPE = Shape(2, 64, 96, 4, 2, 16, 300, tied=True, rope_theta=1e5)
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.down_proj": "ffn_down", "embed_tokens": "token_embd", "norm": "output_norm",
}  # fmt: skip


def random_state(shape: Shape = SHAPE) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(size, generator=generator) for name, size in tensor_sizes(shape).items()}


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False, min_frequency=1,
    )  # fmt: skip
    tokenizer.train_from_iterator(
        ["the cat sat on the mat, 今天天气很好,我们去公园散步 散步 and the dog was there then"], trainer
    )
    return tokenizer


def write(
    path: Path, state: dict[str, torch.Tensor], quantized: bool = False, architecture: str = "llama", **extra: Any
) -> Path:
    """Write a GGUF file like llama.cpp's converter: with its names, and the rows of q and k in pairs."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(SHAPE.depth)
    writer.add_embedding_length(SHAPE.width)
    writer.add_feed_forward_length(SHAPE.ffn_width)
    writer.add_head_count(SHAPE.heads)
    writer.add_head_count_kv(SHAPE.kv_heads)
    writer.add_rope_freq_base(SHAPE.rope_theta)
    writer.add_layer_norm_rms_eps(SHAPE.norm_eps)
    for name, method in extra.items():
        getattr(writer, name)(method)
    for name, weight in state.items():
        name, _, kind = name.rpartition(".")
        parts = name.split(".")
        own = f"blk.{parts[2]}.{NAMES['.'.join(parts[3:])]}" if parts[1] == "layers" else NAMES[parts[1]]
        array = weight.numpy()
        for end, heads in (("q_proj", SHAPE.heads), ("k_proj", SHAPE.kv_heads)):
            if parts[-1] == end and architecture == "llama":
                array = array.reshape(heads, 2, SHAPE.head_dim // 2, -1).swapaxes(1, 2).reshape(array.shape)
        if quantized and array.ndim == 2:
            q8 = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{own}.{kind}", gguf.quants.quantize(array, q8), raw_dtype=q8)
        else:
            writer.add_tensor(f"{own}.{kind}", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_byte_level(path: Path, rule: str) -> Path:
    tokenizer = byte_level()
    names = [str(tokenizer.id_to_token(number)) for number in range(300)]
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    return write(
        path, random_state(), add_tokenizer_model="gpt2", add_tokenizer_pre=rule, add_token_list=names, add_token_merges=merges,
        add_token_types=[3] + [1] * 299,
    )  # fmt: skip


@pytest.mark.parametrize("quantized", [False, True])
def test_weights_round_trip(tmp_path: Path, quantized: bool) -> None:
    state = random_state()
    parent = open_parent(str(write(tmp_path / "model.gguf", state, quantized)), tmp_path)
    assert parent.shape == SHAPE
    assert parent.vocabulary is None
    assert parent.state.keys() == state.keys()
    for name, weight in state.items():
        torch.testing.assert_close(parent.state[name], weight, atol=0.02 if quantized else 0, rtol=0)
    assert len(parent.fingerprint) == 16


@pytest.mark.parametrize("own", [{"qkv_bias": True}, {"qk_norm": True}], ids=["qwen2", "qwen3"])
def test_qwens_rows_are_not_permuted_and_its_biases_and_norms_round_trip(tmp_path: Path, own: dict[str, bool]) -> None:
    shape = replace(SHAPE, **own)
    state = random_state(shape)
    kind = "qwen2" if shape.qkv_bias else "qwen3"
    parent = open_parent(str(write(tmp_path / "model.gguf", state, architecture=kind)), tmp_path)
    assert parent.shape == shape
    assert parent.state.keys() == state.keys()
    assert all(torch.equal(parent.state[name], weight) for name, weight in state.items())


def test_a_byte_level_vocabulary_round_trips(tmp_path: Path) -> None:
    tokenizer = byte_level()
    names = [str(tokenizer.id_to_token(number)) for number in range(300)]
    path = write_byte_level(tmp_path / "model.gguf", "gpt-2")
    found = open_parent(str(path), tmp_path).vocabulary
    assert found is not None
    assert (found.size, found.special_ids, found.end_of_text) == (300, frozenset({0}), 0)
    child = FolderVocabulary(tokenizer, frozenset({0}), 0, "child")
    assert map_rows(child, found).record()["relation"] == "the parent's own vocabulary"
    for name in names[257:]:
        assert [token.id for token in found.tokenizer.model.tokenize(name)] == [tokenizer.token_to_id(name)]


@pytest.mark.parametrize(("rule", "split"), [("gpt-2", []), ("smollm", [Digits(individual_digits=True)])])
def test_text_is_encoded_if_the_pre_tokenizer_is_known(tmp_path: Path, rule: str, split: list[Any]) -> None:
    path = write_byte_level(tmp_path / "model.gguf", rule)
    expected = byte_level()
    expected.pre_tokenizer = Sequence([*split, ByteLevel(add_prefix_space=False)])
    found = open_parent(str(path), tmp_path).vocabulary
    source = import_tokenizer(path)
    assert found is not None and found.encodes and source.format == "gguf" and source.end_of_text == "<|endoftext|>"
    for text in ("the theory of 1234 things", "don't\n\n  stop", "中文 été"):
        ids = expected.encode(text).ids
        assert found.tokenizer.encode(text).ids == ids
        assert open_tokenizer(source.state).encode(text).ids == ids


def test_an_unknown_pre_tokenizer_is_refused_for_text(tmp_path: Path, compose: Callable[[list[str]], Config]) -> None:
    path = write_byte_level(tmp_path / "model.gguf", "tekken")
    found = open_parent(str(path), tmp_path).vocabulary
    assert found is not None and not found.encodes
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.pre=tekken: this pre-tokenization is not supported"):
        import_tokenizer(path)
    child = [
        "arch.depth=1",
        "arch.width=32",
        "arch.ffn_width=48",
        "arch.head_dim=16",
        "tokenizer=bpe",
        "tokenizer.vocab_size=300",
        "arch.rope_theta=100000",
    ]
    asked = ["init=inherit", f"init.parent={path}", "init.layers=importance", "init.criterion=taylor", *child, "arch.tied=true"]
    with pytest.raises(ConfigError) as refused:
        settle(compose(asked))
    assert {mistake.split(":")[0] for mistake in refused.value.mistakes} == {"init.layers=importance", "init.criterion=taylor"}


def test_a_sentencepiece_vocabulary_round_trips(tmp_path: Path) -> None:
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "e", "th", "▁th", "▁the"]
    scores = [0.0] * 258 + [-10.0] * 4 + [-1.0, -2.0, -3.0]
    path = write(
        tmp_path / "model.gguf", random_state(), add_tokenizer_model="llama", add_token_list=names, add_token_scores=scores,
        add_token_types=[2, 3] + [6] * 256 + [1] * 7, add_eos_token_id=1,
    )  # fmt: skip
    found = open_parent(str(path), tmp_path).vocabulary
    assert found is not None
    assert found.end_of_text == 1
    assert [token.value for token in found.tokenizer.model.tokenize("▁the")] == ["▁the"]
    assert [token.value for token in found.tokenizer.model.tokenize("▁tha")] == ["▁th", "<0x61>"]
    child = FolderVocabulary(byte_level(), frozenset({0}), 0, "child")
    row_map = map_rows(child, found)
    number = child.tokenizer.token_to_id("Ġthe")
    assert number is not None
    assert row_map.pieces[row_map.counts[:number].sum()] == names.index("▁the")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"architecture": "gemma"}, "general.architecture is 'gemma'"),
        ({"add_rope_scaling_type": gguf.RopeScalingType.YARN}, "rope_type is 'yarn'"),
        ({"add_rope_dimension_count": 8}, "rope.dimension_count is 8"),
        ({"add_tokenizer_model": "bert", "add_token_list": ["a"]}, "tokenizer.ggml.model is 'bert'"),
    ],
)
def test_unsupported_architectures_are_refused(tmp_path: Path, extra: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "model.gguf", random_state(), **extra)
    with pytest.raises(UserError) as caught:
        open_parent(str(path), tmp_path)
    assert message in str(caught.value)


def test_a_packaged_model_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGED, "tiny", ("a_package_with_a_model", "model.gguf", "pip install it"))
    with pytest.raises(UserError, match=r"init\.parent=tiny.*pip install it"):
        open_parent("tiny", tmp_path)
    package = tmp_path / "a_package_with_a_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    write(package / "model.gguf", random_state())
    monkeypatch.syspath_prepend(tmp_path)
    assert open_parent("tiny", tmp_path).shape == SHAPE


def test_damaged_files_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", random_state())
    content = path.read_bytes()
    for broken in (b"", b"not a model", content[:200], content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="not a complete GGUF file"):
            open_parent(str(path), tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        open_parent(str(path), tmp_path)
    state = random_state(replace(SHAPE, depth=1))
    with pytest.raises(UserError, match="9 tensors are missing"):
        open_parent(str(write(path, state)), tmp_path)
