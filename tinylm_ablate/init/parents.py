"""Models to inherit from: a finished run, a folder in Hugging Face's layout, or a GGUF file. Nothing is unpickled.

Weights are read from safetensors one tensor at a time and not kept, so that a child cut from a much larger parent needs
little more memory than itself. What our decoder cannot express is refused with the reason when the parent is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm_ablate.arch.shapes import Shape, parameters, plain
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint, sha256_file
from tinylm_ablate.init import gguf
from tinylm_ablate.init.coupled import HEAD, check_shapes, tensor_sizes
from tinylm_ablate.init.vocabulary import FolderVocabulary

if TYPE_CHECKING:
    from torch import Tensor

#: Values of "model_type" whose blocks the decoder has, given that no tensor is left over, and what they have beside Llama's.
MODEL_TYPES: dict[str, dict[str, bool]] = {"llama": {}, "mistral": {}, "qwen2": {"qkv_bias": True}, "qwen3": {"qk_norm": True}}

#: What a tensor that the decoder has no place for tells about the model.
_FOREIGN = {
    ".bias": "biases beside those of Qwen2's queries, keys and values, which the decoder does not have",
    "self_attn.q_norm.weight": "norms of queries and keys in a model of another type than qwen3",
    "self_attn.k_norm.weight": "norms of queries and keys in a model of another type than qwen3",
}

_WEIGHT_TYPES = {"F64", "F32", "F16", "BF16"}


class LazyState(Mapping[str, "Tensor"]):
    """The tensors of a folder of safetensors; each is read anew when it is asked for, and none is kept.

    Attributes:
        files: Tensor -> the file that holds it.
        sizes: Tensor -> its size, from the headers.
    """

    def __init__(self, folder: Path) -> None:
        """Read the index and the headers.

        Raises:
            UserError: No safetensors here, a shard is missing or broken, or the weights are quantised.
        """
        from safetensors import SafetensorError, safe_open

        listed = _listed(folder)
        found: dict[str, Path] = {}
        self.sizes: dict[str, tuple[int, ...]] = {}
        for path in _weight_files(folder, listed):
            try:
                with safe_open(path, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - the file is no mapping
                        part = file.get_slice(name)
                        if part.get_dtype() not in _WEIGHT_TYPES:
                            raise UserError(f"{path}: {name} is {part.get_dtype()}; quantised weights cannot be inherited")
                        found[name], self.sizes[name] = path, tuple(part.get_shape())
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: not a whole safetensors file ({error}); copy it again") from error
        if absent := sorted(set(listed) - set(found)):
            raise UserError(f"{folder}: the index names {_some(absent)}, and the files do not hold it; copy them again")
        self.files = found

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(self.files[name], framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False)
class Parent:
    """A model to inherit from.

    Attributes:
        reference: What the user called it.
        folder: Where its weights are; for GGUF, the file.
        shape: Its sizes.
        state: Its weights under Hugging Face's Llama names, read when asked for unless they were made in memory.
        vocabulary: Its vocabulary, or None if the folder holds none.
        window: Positions that attention looks back, None for all: a sliding window matters in longer sequences only.
    """

    reference: str
    folder: Path
    shape: Shape
    state: Mapping[str, Tensor]
    vocabulary: FolderVocabulary | None
    window: int | None = None

    @property
    def description(self) -> str:
        """One line for people."""
        shape, total = self.shape, parameters(self.shape)["total"]
        return (
            f"{self.reference}: {total:,} parameters, {shape.depth} layers, width {shape.width}, FFN {shape.ffn_width}, "
            f"{shape.heads} heads of {shape.head_dim} ({shape.kv_heads} key-value), vocabulary {shape.vocab_size:,}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of shape, weights and vocabulary, wherever the folder lies; reads every byte of the weights once."""
        files: dict[str, Path] | None = getattr(self.state, "files", None)
        if files is not None:
            contents = sorted(sha256_file(path) for path in set(files.values()))
        else:
            contents = [f"{name} {_sha256(self.state[name])}" for name in sorted(self.state)]
        vocabulary = None if self.vocabulary is None else self.vocabulary.fingerprint
        return fingerprint({"shape": plain(self.shape), "weights": contents, "vocabulary": vocabulary})


def open_parent(reference: str, runs_dir: Path) -> Parent:
    """Open a model to inherit from; reads headers, not weights.

    Args:
        reference: A folder (of a run, or in Hugging Face's layout), a GGUF file, a name in ``gguf.PACKAGED``, or the identity
            of a run in ``runs_dir``.
        runs_dir: Where runs are.

    Raises:
        UserError: There is no such model, it is damaged, or our decoder cannot express it.
    """
    if reference in gguf.PACKAGED or reference.endswith(".gguf"):
        return _open_gguf(reference)
    folder = _find(reference, runs_dir)
    config = read_config(folder / "config.json")
    shape, window = shape_of(config, folder / "config.json")
    state = LazyState(folder)
    vocabulary = FolderVocabulary.read(folder)
    if vocabulary is None and (folder.parent / "config.yaml").is_file():  # a run may keep its tokenizer beside its model
        vocabulary = FolderVocabulary.read(folder.parent)
    return _checked(Parent(reference, folder, shape, state, vocabulary, window), state.sizes)


def _open_gguf(reference: str) -> Parent:
    path = gguf.packaged(reference) if reference in gguf.PACKAGED else Path(reference).expanduser()
    if not path.is_file():
        raise UserError(f"init.parent={reference}: no such file")
    file = gguf.read(path)
    state = gguf.GgufState(path, file)
    return _checked(Parent(reference, path, gguf.shape_of(file, path), state, gguf.vocabulary(file, path)), state.sizes)


def _checked(parent: Parent, sizes: Mapping[str, tuple[int, ...]]) -> Parent:
    if mistakes := check_tensors(sizes, parent.shape):
        raise UserError(f"init.parent={parent.reference}: cannot be inherited from: {'; '.join(mistakes)}")
    return parent


def check_parent(parent: Parent, child: Shape, context_length: int | None = None) -> list[str]:
    """Why ``child`` cannot inherit from ``parent``, one line a reason.

    Args:
        parent: An opened parent.
        child: Shape of the child.
        context_length: Tokens in the child's sequences, to be held against a sliding window.
    """
    mistakes = check_shapes(parent.shape, child)
    if parent.vocabulary is None:
        mistakes.append(
            f"init.parent={parent.reference}: no tokenizer.json in {parent.folder}, so no row of the embedding fits"
        )
    if parent.window is not None and context_length is not None and context_length > parent.window:
        mistakes.append(
            f"train.context_length={context_length}: the parent looks back {parent.window} positions only; allowed: as many"
        )
    return mistakes


def shape_of(config: Mapping[str, Any], path: Path) -> tuple[Shape, int | None]:
    """The shape that a Hugging Face ``config.json`` describes, and its sliding window.

    Args:
        config: Content of the file.
        path: The file, for messages.

    Raises:
        UserError: Another architecture, or settings that the decoder does not have; all of them at once.
    """
    kind = config.get("model_type")
    if kind not in MODEL_TYPES:
        raise UserError(f"{path}: model_type is {kind!r}; allowed: {', '.join(MODEL_TYPES)}")
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    mistakes = [
        f"{key} is {value!r}, and the decoder knows only {only}"
        for key, value, only in (
            ("hidden_act", config.get("hidden_act", "silu"), "silu"),
            ("rope_type", rope.get("rope_type", rope.get("type", "default")), "default"),
            ("partial_rotary_factor", rope.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)), 1.0),
            ("quantization_config", config.get("quantization_config"), None),
        )
        if value != only
    ]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
    sizes = [config.get(name) for name in names]
    mistakes += [f"{name} is {size!r}" for name, size in zip(names, sizes, strict=True) if not _is_size(size)]
    if mistakes:
        raise UserError(f"{path}: {'; '.join(mistakes)}")
    depth, width, ffn_width, heads, vocab_size = (int(size) for size in sizes if size is not None)
    try:
        shape = Shape(
            depth, width, ffn_width, heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or width // heads,
            vocab_size=vocab_size,
            tied=bool(config.get("tie_word_embeddings", False)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            **MODEL_TYPES[kind],
        )  # fmt: skip
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    sliding = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return shape, int(sliding) if sliding else None


def check_tensors(sizes: Mapping[str, tuple[int, ...]], shape: Shape) -> list[str]:
    """What is missing, of another size, or without a place in the decoder."""
    wanted = tensor_sizes(shape)
    mistakes = []
    if missing := [name for name in wanted if name not in sizes]:
        mistakes.append(f"{len(missing)} tensors are missing, such as {missing[0]}")
    wrong = [name for name, size in wanted.items() if name in sizes and tuple(sizes[name]) != size]
    if wrong:
        mistakes.append(f"{wrong[0]} is {tuple(sizes[wrong[0]])}, and config.json says {wanted[wrong[0]]}")
    spare = {HEAD} if shape.tied else set()  # written by some programs for a tied model, and the same matrix
    foreign = [name for name in sizes if name not in wanted and name not in spare and not name.endswith("rotary_emb.inv_freq")]
    reasons = dict.fromkeys(
        next((reason for end, reason in _FOREIGN.items() if name.endswith(end)), f"an unknown tensor {name}")
        for name in foreign
    )
    return [*mistakes, *list(reasons)[:3]]


def _sha256(tensor: Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _find(reference: str, runs_dir: Path) -> Path:
    """The folder with config.json and weights that a reference means."""
    candidates = [Path(reference).expanduser(), runs_dir / reference]
    for folder in candidates:
        if (folder / "model" / "config.json").is_file():
            return folder / "model"
        if (folder / "config.json").is_file():
            return folder
    for folder in candidates:
        if folder.is_dir():
            raise UserError(
                f"init.parent={reference}: {folder} holds neither config.json nor model/config.json; a run has its model once "
                "it is finished, with train.keep_model=true; a Hugging Face folder has config.json, model.safetensors and "
                "tokenizer.json"
            )
    raise UserError(f"init.parent={reference}: no such folder, and no run of that name in {runs_dir}")


def read_config(path: Path, remedy: str = "copy it again") -> dict[str, Any]:
    """A model's ``config.json``; ``remedy`` ends the message where it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; {remedy}")
    return content


def _listed(folder: Path) -> dict[str, str]:
    """Tensor -> file, as the index of a sharded model says; empty without one."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return {}
    listed = read_config(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) and Path(file).name == file for file in listed.values()):
        raise UserError(f"{path}: weight_map is not a list of files in this folder; copy it again")
    return listed


def _weight_files(folder: Path, listed: Mapping[str, str]) -> list[Path]:
    paths = [folder / name for name in sorted(set(listed.values()))] or sorted(folder.glob("*.safetensors"))
    if absent := [path.name for path in paths if not path.is_file()]:
        raise UserError(f"{folder}: the index names {_some(absent)}, and there is no such file; copy it too")
    if not paths:
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
        advice = (
            f"{_some(pickles)} is a pickle, which can run any code and is not read; where you trust it, write it anew with "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
            if pickles
            else "copy model.safetensors there"
        )
        raise UserError(f"{folder}: no safetensors here; {advice}")
    return paths


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
