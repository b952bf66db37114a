"""Weights under Hugging Face's names: models of our runs, and folders for and from other programs.

A model is a folder in Hugging Face's layout. ``AutoModelForCausalLM`` reads models with blocks of Llama, Qwen2 and Qwen3.
Those with PanGu-pi's blocks have the same layout with our own model type, so that programs do not mistake them for Llama.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.arch.shapes import Shape, matrices
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import building, save_tensors
from tinylm_ablate.formats.json_file import read_bytes, read_object
from tinylm_ablate.formats.model_config import huggingface_config
from tinylm_ablate.formats.stored import open_stored
from tinylm_ablate.formats.tensors import EMBEDDING, HEAD, NORM, own_parts, tensor_name

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from tinylm_ablate.arch.decoder import Decoder


#: Mapping in both directions: a module of our layers -> Hugging Face's modules whose rows are stacked in it, in order.
_MODULES: dict[str, tuple[str, ...]] = {
    "attention_norm": ("input_layernorm",),
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.q_norm": ("self_attn.q_norm",),
    "attention.k_norm": ("self_attn.k_norm",),
    "attention.out": ("self_attn.o_proj",),
    "ffn_norm": ("post_attention_layernorm",),
    "ffn.gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "ffn.down": ("mlp.down_proj",),
}
_HEAD_NORMS = ("attention.q_norm", "attention.k_norm")


def names(shape: Shape) -> dict[str, tuple[str, ...]]:
    """Map every tensor of a decoder to the tensors of Hugging Face's Llama or Qwen that are stacked in it, in order.

    Tensors that Llama does not have keep our name after "model.".
    """
    table: dict[str, tuple[str, ...]] = {"embedding.weight": (EMBEDDING,)}
    replaced = tuple(f"{block}." for block, own in (("attention", shape.own_attention), ("ffn", shape.own_ffn)) if own)
    modules = {
        ours: theirs
        for ours, theirs in _MODULES.items()
        if (shape.qk_norm or ours not in _HEAD_NORMS) and not (replaced and ours.startswith(replaced))
    }
    for layer in range(shape.depth):
        ours = f"layers.{layer}."
        table |= {f"{ours}{name}.weight": tuple(tensor_name(layer, part) for part in parts) for name, parts in modules.items()}
        if shape.qkv_bias:
            table[f"{ours}attention.qkv.bias"] = tuple(tensor_name(layer, f"{part}.bias") for part in _MODULES["attention.qkv"])
        table |= {ours + name: (f"model.{ours}{name}",) for name in own_parts(shape)}
    table["norm.weight"] = (NORM,)
    if not shape.tied:
        table["head.weight"] = (HEAD,)
    return table


def to_huggingface(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Return a decoder's state under Hugging Face's names; the tensors are views."""
    import torch

    rows = {stored: [size[0] for size in parts.values()] for stored, parts in matrices(shape).items()}
    result: dict[str, Tensor] = {}
    for ours, theirs in names(shape).items():
        module = ours.rpartition(".")[0].split(".", 2)[-1]
        pieces = torch.split(state[ours], rows[module]) if len(theirs) > 1 else (state[ours],)
        result |= zip(theirs, pieces, strict=True)
    return result


def from_huggingface(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Convert tensors under Hugging Face's names to a state for ``Decoder(shape).load_state_dict``.

    Args:
        state: The tensors; in a lazy mapping, each is read once. Copies of a tied head and tables of the rotary embedding,
            which some programs write, are ignored.
        shape: The decoder.

    Raises:
        UserError: Tensors are missing or unexpected.
    """
    import torch

    table = names(shape)
    _check_names(state, shape)
    return {
        ours: state[theirs[0]] if len(theirs) == 1 else torch.cat([state[name] for name in theirs])
        for ours, theirs in table.items()
    }


def take_decoder(state: dict[str, Tensor], shape: Shape) -> Decoder:
    """Create a decoder from tensors under Hugging Face's names, removing them from ``state`` to save memory.

    Args:
        state: The tensors, in the precision of the decoder; empty afterwards.
        shape: The decoder.

    Raises:
        UserError: Tensors are missing or unexpected.
    """
    import torch

    from tinylm_ablate.arch.decoder import Decoder

    _check_names(state, shape)
    taken: dict[str, Tensor] = {}
    for ours, theirs in names(shape).items():
        taken[ours] = state.pop(theirs[0]) if len(theirs) == 1 else torch.cat([state.pop(name) for name in theirs])
    state.clear()
    with torch.device("meta"):
        decoder = Decoder(shape)
    decoder.load_state_dict(taken, assign=True)
    return decoder.requires_grad_()


def _check_names(state: Mapping[str, Tensor], shape: Shape) -> None:
    table = names(shape)
    wanted = {name for theirs in table.values() for name in theirs}
    missing = [name for theirs in table.values() for name in theirs if name not in state]
    spare = {HEAD} if shape.tied else set()
    unexpected = [name for name in state if name not in wanted | spare and not name.endswith("rotary_emb.inv_freq")]
    if missing or unexpected:
        said = [
            f"{len(found)} {words}, such as {found[0]}"
            for found, words in ((missing, "tensors are missing"), (unexpected, "tensors are unexpected"))
            if found
        ]
        raise UserError(f"weights do not match their shape: {'; '.join(said)}")


@dataclass(frozen=True)
class Model:
    """A decoder's weights with everything that other programs need to run them.

    Attributes:
        state: The decoder's state.
        shape: Its shape.
        tokenizer_json: The tokenizer's file, or None without one.
        context_length: Tokens per sequence in training.
        end_of_text: The id after each document, and so before the next.
    """

    state: Mapping[str, Tensor] = field(repr=False)
    shape: Shape
    tokenizer_json: Path | None
    context_length: int
    end_of_text: int | None

    @classmethod
    def read(cls, folder: Path) -> Model:
        """Read a model from a folder in Hugging Face's layout.

        Raises:
            UserError: The model does not exist, is damaged, or is not supported by our decoder.
        """
        shape, state = load(folder)
        _, end_of_text = load_tokenizer(folder)
        context_length = read_object(folder / "config.json").get("max_position_embeddings")
        if not isinstance(context_length, int):
            raise UserError(f"{folder / 'config.json'}: max_position_embeddings is {context_length!r:.60}; allowed: a number")
        return cls(state, shape, folder / "tokenizer.json", context_length, end_of_text)

    def check_exportable(self, program: str) -> None:
        """Refuse blocks that other programs do not support.

        Raises:
            UserError: They are PanGu-pi's.
        """
        if self.shape.is_own:
            raise UserError(
                "arch.own_attention, arch.own_ffn: other programs do not support user-defined blocks, so they are not exported"
            )
        if not self.shape.is_llama:
            given = f"arch.activations={self.shape.activations}, arch.shortcuts={self.shape.shortcuts}"
            raise UserError(
                f"{given}: {program} has neither series activations nor augmented shortcuts, so the model is not exported; "
                "allowed: arch.activations=1 arch.shortcuts=0"
            )


def export(folder: Path, model: Model) -> None:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` can load, atomically.

    Args:
        folder: A folder that does not exist yet.
        model: The model; without a tokenizer's file, none is written.

    Raises:
        UserError: Hugging Face does not support such blocks, or the folder exists.
    """
    model.check_exportable("Hugging Face's Llama")
    if folder.exists():
        raise UserError(f"{folder}: exists already; choose a new folder")
    save(folder, model)


def save(folder: Path, model: Model) -> None:
    """Write a model of any shape as a folder in Hugging Face's layout, atomically; an existing folder is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in to_huggingface(model.state, model.shape).items()}
    config = huggingface_config(model.shape, model.context_length, model.end_of_text)
    config["dtype"] = str(tensors[EMBEDDING].dtype).removeprefix("torch.")
    end = model.end_of_text
    with building(folder) as temporary:
        save_tensors(temporary / "model.safetensors", tensors, {"format": "pt"})
        _write_json(temporary / "config.json", config)
        _write_json(temporary / "generation_config.json", {"bos_token_id": end, "eos_token_id": end})
        if model.tokenizer_json is not None:
            content = model.tokenizer_json.read_text(encoding="utf-8")
            settings = _tokenizer_config(json.loads(content), model.context_length, end)
            (temporary / "tokenizer.json").write_text(content, encoding="utf-8")
            _write_json(temporary / "tokenizer_config.json", settings)


def load(folder: Path) -> tuple[Shape, dict[str, Tensor]]:
    """Read shape and decoder state from a folder in Hugging Face's layout, or a GGUF file.

    Tensors are read one after another, and keep their stored type; quantized ones are expanded.

    Raises:
        UserError: There is no model, it is damaged, or our decoder cannot express it.
    """
    stored = open_stored(folder)
    if stored.window is not None and stored.window < (stored.context_length or 0):
        raise UserError(f"{folder}: sliding_window is {stored.window}, but the decoder attends to all positions")
    return stored.shape, from_huggingface(stored.state, stored.shape)


def load_model(folder: Path) -> Decoder:
    """Load the decoder of a folder or a GGUF file, with its weights in fp32."""
    import torch

    from tinylm_ablate.arch.decoder import Decoder

    shape, state = load(folder)
    with torch.device("meta"):
        decoder = Decoder(shape)
    decoder.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return decoder.requires_grad_()


def load_tokenizer(folder: Path) -> tuple[Tokenizer, int | None]:
    """Load the tokenizer of a model's folder, and its end-of-text id if ``config.json`` has one.

    Raises:
        UserError: There is no ``tokenizer.json``, or it cannot be read.
    """
    from tinylm_ablate.formats.tokenizer_json import open_json

    if folder.suffix == ".gguf":
        from tinylm_ablate.formats.gguf_file import GgufFile
        from tinylm_ablate.formats.gguf_tokenizer import gguf_vocabulary

        if (vocabulary := gguf_vocabulary(GgufFile(folder))) is None or not vocabulary.encodes:
            raise UserError(f"{folder}: has no complete tokenizer; allowed: the model as a folder with its tokenizer.json")
        return vocabulary.tokenizer, vocabulary.end_of_text
    path = folder / "tokenizer.json"
    tokenizer = open_json(read_bytes(path), path)
    end = read_object(folder / "config.json").get("eos_token_id")
    return tokenizer, end[0] if isinstance(end, list) else end


def _tokenizer_config(tokenizer: dict[str, Any], context_length: int, end_of_text: int | None) -> dict[str, Any]:
    text = next((token["content"] for token in tokenizer.get("added_tokens", ()) if token["id"] == end_of_text), None)
    special = {} if text is None else {"bos_token": text, "eos_token": text, "pad_token": text}
    return {
        # This class uses tokenizer.json unchanged; a Llama tokenizer would replace its steps.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **special,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
