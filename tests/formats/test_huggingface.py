"""Equality with transformers' Llama, Qwen2 and Qwen3 in both directions, and incompatible folders."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from tinylm_ablate.arch.decoder import Decoder
from tinylm_ablate.arch.shapes import Shape, parameters
from tinylm_ablate.config import InitConfig
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.huggingface import (
    Model,
    export,
    from_huggingface,
    load,
    load_model,
    names,
    save,
    to_huggingface,
)
from tinylm_ablate.formats.model_config import huggingface_config, model_type, read_shape
from tinylm_ablate.init.random import initialize

transformers = pytest.importorskip("transformers")

LLAMA = Shape(3, 48, 80, 6, 6, 8, 211, norm_eps=1e-5)
SHAPES = {
    f"{kv_heads} of 6 key-value heads{', tied' if tied else ''}": dataclasses.replace(LLAMA, kv_heads=kv_heads, tied=tied)
    for kv_heads in (6, 2, 1)
    for tied in (False, True)
} | {
    "another base": dataclasses.replace(LLAMA, rope_theta=500000.0, norm_eps=1e-6),
    "wide heads": dataclasses.replace(LLAMA, head_dim=16),
    "qwen2": dataclasses.replace(LLAMA, kv_heads=2, qkv_bias=True, norm_eps=1e-6),
    "qwen2, tied": dataclasses.replace(LLAMA, tied=True, qkv_bias=True),
    "qwen3": dataclasses.replace(LLAMA, kv_heads=2, qk_norm=True, norm_eps=1e-6),
    "qwen3, wide heads, tied": dataclasses.replace(LLAMA, kv_heads=1, head_dim=16, tied=True, qk_norm=True),
}  # fmt: skip
PANGU = dataclasses.replace(LLAMA, kv_heads=2, activations=2, shortcuts=1, shortcut_ratio=8)


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


def random_decoder(shape: Shape) -> Decoder:
    """Return weights large enough that every part matters (larger ones amplify rounding), and norms other than one."""
    decoder = Decoder(shape)
    initialize(decoder, InitConfig(rule="constant", std=0.1), seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in decoder.named_parameters():
        if "norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, float("norm" in name), 0.2, generator=generator)
    return decoder


def as_config(shape: Shape):
    """Return our config.json as read by transformers."""
    kind = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[model_type(shape)]
    return getattr(transformers, f"{kind}Config")(**huggingface_config(shape, 64, 0))


def transformers_model(decoder: Decoder):
    config = as_config(decoder.shape)
    model = getattr(transformers, type(config).__name__.replace("Config", "ForCausalLM"))(config)
    problems = model.load_state_dict(to_huggingface(decoder.state_dict(), decoder.shape), strict=False)
    assert not problems.unexpected_keys
    assert set(problems.missing_keys) <= ({"lm_head.weight"} if decoder.shape.tied else set())
    model.tie_weights()
    return model


def some_tokens(length: int = 33) -> torch.Tensor:
    return torch.randint(211, (2, length), generator=torch.Generator().manual_seed(3))


def test_logits_loss_and_gradients_equal_transformers(shape):
    decoder = random_decoder(shape)
    model, tokens = transformers_model(decoder), some_tokens()
    theirs = model(input_ids=tokens, labels=tokens)
    torch.testing.assert_close(decoder(tokens), theirs.logits)
    loss = decoder.loss(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(loss, theirs.loss)
    loss.backward()
    theirs.loss.backward()
    gradients = to_huggingface({name: parameter.grad for name, parameter in decoder.named_parameters()}, shape)
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert set(gradients) == set(expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=lambda text, name=name: f"{name}: {text}")


def test_names_equal_transformers_and_round_trip(shape):
    decoder = random_decoder(shape)
    state = decoder.state_dict()
    theirs = to_huggingface(state, shape)
    assert set(theirs) == {name for name, _ in transformers_model(decoder).named_parameters()}
    assert sum(tensor.numel() for tensor in theirs.values()) == parameters(shape)["total"]
    back = from_huggingface(theirs, shape)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_pangu_round_trips():
    state = random_decoder(PANGU).state_dict()
    back = from_huggingface(to_huggingface(state, PANGU), PANGU)
    assert back.keys() == state.keys() == names(PANGU).keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_the_config_round_trips(shape):
    for one in (shape, PANGU):
        assert read_shape(json.loads(json.dumps(huggingface_config(one, 64, 0))))[0] == one
    written = as_config(shape).to_dict()
    assert read_shape(written)[0] == shape
    earlier = {k: v for k, v in huggingface_config(shape, 64, 0).items() if k not in ("rope_parameters", "head_dim")}
    if shape.heads * shape.head_dim == shape.width and not shape.qk_norm:  # by default, Qwen3's heads have 128 channels
        assert read_shape(earlier)[0] == shape


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_parameters.low_freq_factor is missing"),
        ({"rope_parameters": None, "rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type is 'yarn'"),
        ({"num_key_value_heads": 4}, "key-value heads must divide"),
        ({"hidden_size": None}, "hidden_size is None"),
    ],
)
def test_what_the_decoder_cannot_express_is_reported(changes, message):
    with pytest.raises(UserError, match=message):
        read_shape(huggingface_config(LLAMA, 64, 0) | changes)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the one that then thought there", "的一是不了在人有我"], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"qkv_bias": True}, {"qk_norm": True}], ids=str)
def test_transformers_loads_an_exported_folder(changes, tokenizer_json, tmp_path):
    shape = dataclasses.replace(LLAMA, kv_heads=2, vocab_size=300, **changes)
    decoder = random_decoder(shape)
    folder = tmp_path / "model"
    export(folder, Model(decoder.state_dict(), shape, tokenizer_json, 64, 0))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert type(model).__name__ == huggingface_config(shape, 64, 0)["architectures"][0]
    assert model.config.rope_parameters["rope_theta"] == shape.rope_theta
    ours = Tokenizer.from_file(str(tokenizer_json))
    for text in ("the thought", "  then\n\tthe one", "的一是 不了 <3 é 🙂"):
        ids = tokenizer(text)["input_ids"]
        assert ids == ours.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token == "<|end|>" and tokenizer.eos_token_id == 0 == model.config.eos_token_id
    tokens = tokenizer("the one that thought of 的一", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(decoder.double()(tokens), model.double()(tokens).logits, rtol=1e-5, atol=1e-5)
    loaded, state = load(folder)
    assert loaded == shape
    assert all(torch.equal(state[name], tensor) for name, tensor in decoder.float().state_dict().items())


def test_sharded_folders_of_transformers_are_loaded(tmp_path):
    decoder = random_decoder(dataclasses.replace(LLAMA, kv_heads=2))
    transformers_model(decoder).save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    shape, state = load(tmp_path)
    assert shape == decoder.shape
    assert all(torch.equal(state[name], tensor) for name, tensor in decoder.state_dict().items())
    tokens = some_tokens()
    assert torch.equal(load_model(tmp_path)(tokens), decoder(tokens))


def test_half_precision_is_kept_and_trained_in_fp32(tmp_path):
    decoder = random_decoder(LLAMA)
    export(
        tmp_path / "half",
        Model({name: tensor.bfloat16() for name, tensor in decoder.state_dict().items()}, LLAMA, None, 64, None),
    )
    _, state = load(tmp_path / "half")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    model = load_model(tmp_path / "half")
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in model.parameters())
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


def test_pangu_is_not_exported_but_kept(tokenizer_json, tmp_path):
    decoder = random_decoder(dataclasses.replace(PANGU, vocab_size=300))
    with pytest.raises(UserError, match=r"arch.activations=2, arch.shortcuts=1: .* not exported"):
        export(tmp_path / "out", Model(decoder.state_dict(), decoder.shape, tokenizer_json, 64, 0))
    assert not (tmp_path / "out").exists()

    tokens = some_tokens()
    for _ in range(2):  # a repeated run replaces its model
        save(tmp_path / "model", Model(decoder.state_dict(), decoder.shape, tokenizer_json, 64, 0))
        assert torch.equal(load_model(tmp_path / "model")(tokens), decoder(tokens))
    with pytest.raises(ValueError):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_folder_is_not_overwritten(tmp_path):
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path, Model(random_decoder(LLAMA).state_dict(), LLAMA, None, 64, None))


def test_an_export_that_fails_leaves_nothing(tmp_path):
    state = random_decoder(LLAMA).state_dict()
    with pytest.raises(FileNotFoundError):
        export(tmp_path / "model", Model(state, LLAMA, tmp_path / "no-tokenizer.json", 64, 0))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_do_not_fit_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"config\.json: cannot be read"):
        load(tmp_path)
    folder = tmp_path / "model"
    for shape in (LLAMA, PANGU):
        whole = to_huggingface(random_decoder(shape).state_dict(), shape)
        whole = {name: tensor.clone() for name, tensor in whole.items()}
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(huggingface_config(shape, 64, 0)))
        name = "model.layers.1.mlp.up_proj.weight"
        save_file({key: tensor for key, tensor in whole.items() if key != name}, folder / "model.safetensors")
        with pytest.raises(UserError, match=rf"missing, such as {name}"):
            load(folder)
        save_file({**whole, "model.layers.0.extra.weight": torch.ones(2)}, folder / "model.safetensors")
        with pytest.raises(UserError, match=r"extra\.weight"):
            load(folder)
        save_file({**whole, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}, folder / "model.safetensors")
        assert load(folder)[0] == shape
    (folder / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match="not a complete safetensors file"):
        load(folder)


def test_a_stored_copy_of_a_tied_head_is_ignored(tmp_path):
    shape = dataclasses.replace(LLAMA, tied=True)
    export(tmp_path / "model", Model(random_decoder(shape).state_dict(), shape, None, 64, None))
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    assert "head.weight" not in load(tmp_path / "model")[1]
