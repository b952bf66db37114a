"""Exported GGUF files: they are read back with the same logits and tokens, and written atomically."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.gguf_export import export_gguf
from tinylm_ablate.formats.gguf_file import GgufFile
from tinylm_ablate.formats.gguf_tokenizer import HUGGINGFACE_TOKENIZER, tokenizer_state
from tinylm_ablate.formats.huggingface import Model, load_model, load_tokenizer
from tinylm_ablate.formats.importing import import_tokenizer
from tinylm_ablate.formats.lossless import State, open_tokenizer

gguf = pytest.importorskip("gguf")

LLAMA = Shape(2, 64, 96, 4, 2, 16, 600, norm_eps=1e-6)
SHAPES = {
    "llama": LLAMA,
    "llama, tied": dataclasses.replace(LLAMA, tied=True, rope_theta=500000.0),
    "llama, wide heads": dataclasses.replace(LLAMA, head_dim=32),
    "llama 3": dataclasses.replace(LLAMA, rope_scaling="llama3/32/1/4/8192", rope_theta=500000.0),
    "llama, linear": dataclasses.replace(LLAMA, rope_scaling="linear/4"),
    "qwen2": dataclasses.replace(LLAMA, qkv_bias=True),
    "qwen3": dataclasses.replace(LLAMA, qk_norm=True, head_dim=32, tied=True),
}


def random_decoder(shape: Shape) -> Decoder:
    decoder = Decoder(shape)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1 + (parameter.dim() == 1))
    return decoder.eval()


@pytest.fixture(scope="module")
def tokenizer_json(bpe: tuple[State, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(bpe[0]))
    return path


def logits(decoder: Decoder) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = decoder(torch.randint(0, 600, (2, 48), generator=torch.Generator().manual_seed(1)))
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_logits_round_trip(name: str, tokenizer_json: Path, tmp_path: Path) -> None:
    decoder, path = random_decoder(SHAPES[name]), tmp_path / "model.gguf"
    notes = export_gguf(path, Model(decoder.state_dict(), decoder.shape, tokenizer_json, 64, 0), "f32")
    assert len(notes) == 1 and notes[0].startswith("llama.cpp does not support the pre-tokenization")
    back = load_model(path)
    assert back.shape == decoder.shape
    assert torch.equal(logits(back), logits(decoder))
    # Also by the reader of the package gguf, which is independent of ours.
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert sum(tensor.n_elements for tensor in theirs.values()) - 8 * ("rope_freqs.weight" in theirs) == sum(
        parameter.numel() for parameter in decoder.parameters()
    )
    assert np.array_equal(theirs["blk.1.ffn_down.weight"].data, decoder.state_dict()["layers.1.ffn.down.weight"].numpy())


@pytest.mark.parametrize(("weights", "bits", "near"), [("f16", 16, 2e-3), ("q8_0", 8.5, 0.05), ("q4_0", 4.5, 0.5)])
def test_quantized_weights_are_close(weights: str, bits: float, near: float, tokenizer_json: Path, tmp_path: Path) -> None:
    decoder, path = random_decoder(LLAMA), tmp_path / "model.gguf"
    export_gguf(path, Model(decoder.state_dict(), LLAMA, tokenizer_json, 64, 0), weights)
    file = GgufFile(path)
    matrices = [tensor for tensor in file.tensors.values() if len(tensor.size) == 2]
    assert sum(tensor.bytes for tensor in matrices) * 8 == bits * sum(np.prod(tensor.size) for tensor in matrices)
    exact, found = logits(decoder), logits(load_model(path))
    error = float((found - exact).norm() / exact.norm())
    assert 0 < error < near


def test_rows_that_are_no_multiple_of_a_block_are_in_half_precision(tokenizer_json: Path, tmp_path: Path) -> None:
    decoder = random_decoder(dataclasses.replace(LLAMA, ffn_width=88))
    notes = export_gguf(tmp_path / "m.gguf", Model(decoder.state_dict(), decoder.shape, tokenizer_json, 64, 0), "q8_0")
    assert "2 of 16 matrices are in half precision" in notes[-1]
    assert GgufFile(tmp_path / "m.gguf").tensors["blk.0.ffn_down.weight"].kind == 1


def test_tokens_round_trip(tokenizer_json: Path, tmp_path: Path) -> None:
    decoder, path = random_decoder(LLAMA), tmp_path / "model.gguf"
    export_gguf(path, Model(decoder.state_dict(), LLAMA, tokenizer_json, 64, 0))
    original = Tokenizer.from_file(str(tokenizer_json))
    found, end = load_tokenizer(path)
    text = "the old boats don't cost 12 今天天气很好。\n\n Machine"
    assert end == 0 and found.encode(text).ids == original.encode(text).ids
    assert open_tokenizer(import_tokenizer(path).state).encode(text).ids == original.encode(text).ids
    # llama.cpp reads the entries in their order, and their merges.
    file = GgufFile(path)
    assert file.value("tokenizer.ggml.tokens") == [original.id_to_token(number) for number in range(600)]
    assert file.value("tokenizer.ggml.token_type")[:2].tolist() == [3, 1]
    assert (file.value("tokenizer.ggml.bos_token_id"), file.value("tokenizer.ggml.add_bos_token")) == (0, True)


def test_the_pre_tokenizer_of_llama_cpp_is_named(ranks_file: Path, tmp_path: Path) -> None:
    """tiktoken ranks are pre-tokenized like Llama 3 or Qwen, which llama.cpp supports."""
    imported = import_tokenizer(ranks_file)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(imported.state))
    shape = dataclasses.replace(LLAMA, vocab_size=imported.size)
    state = random_decoder(shape).state_dict()
    assert (
        export_gguf(tmp_path / "m.gguf", Model(state, shape, path, 64, imported.state["model"]["vocab"][imported.end_of_text]))
        == []
    )
    file = GgufFile(tmp_path / "m.gguf")
    assert file.value("tokenizer.ggml.pre") in ("llama-bpe", "qwen2")
    del file.metadata[HUGGINGFACE_TOKENIZER]
    plain = tokenizer_state(file)
    assert plain is not None
    text = "the old boats don't cost 12 or 345 今天天气很好。\n\n Machine"
    assert open_tokenizer(plain).encode(text).ids == open_tokenizer(imported.state).encode(text).ids


def test_sentencepiece_round_trips(sentencepiece_file: Path, tmp_path: Path) -> None:
    imported = import_tokenizer(sentencepiece_file)
    (tmp_path / "tokenizer.json").write_text(json.dumps(imported.state))
    shape = dataclasses.replace(LLAMA, vocab_size=imported.size)
    state = random_decoder(shape).state_dict()
    assert export_gguf(tmp_path / "m.gguf", Model(state, shape, tmp_path / "tokenizer.json", 64, 2)) == []
    file = GgufFile(tmp_path / "m.gguf")
    assert file.value("tokenizer.ggml.model") == "llama"
    text = "the old boats don't cost 12 今天天气很好。"
    found, _ = load_tokenizer(tmp_path / "m.gguf")
    assert found.encode(text, add_special_tokens=False).ids == open_tokenizer(imported.state).encode(text).ids


def test_other_blocks_and_an_existing_file_are_refused(tokenizer_json: Path, tmp_path: Path) -> None:
    pangu = dataclasses.replace(LLAMA, activations=2)
    with pytest.raises(UserError, match=r"arch.activations=2, arch.shortcuts=0: llama.cpp has neither"):
        export_gguf(tmp_path / "m.gguf", Model(random_decoder(pangu).state_dict(), pangu, tokenizer_json, 64, 0))
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        export_gguf(tmp_path / "m.gguf", Model(random_decoder(LLAMA).state_dict(), LLAMA, tokenizer_json, 64, 0))
    (tmp_path / "m.gguf").unlink()
    with pytest.raises(FileNotFoundError):
        export_gguf(tmp_path / "m.gguf", Model(random_decoder(LLAMA).state_dict(), LLAMA, tmp_path / "nowhere", 64, 0))
    assert list(tmp_path.iterdir()) == []
