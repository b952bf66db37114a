"""Models to inherit from: a finished run, a Hugging Face folder, or a GGUF file. Nothing is unpickled.

Weights are read from safetensors one tensor at a time and not kept, so that cutting a child from a much larger parent needs
little more memory than the child. Opening a parent with features that our decoder does not support is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.arch.shapes import Shape, parameters, plain
from tinylm_ablate.errors import UserError
from tinylm_ablate.files import fingerprint, sha256_file
from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
from tinylm_ablate.formats.gguf_file import GgufFile
from tinylm_ablate.formats.gguf_tokenizer import gguf_vocabulary
from tinylm_ablate.formats.packaged import PACKAGED, packaged
from tinylm_ablate.formats.stored import open_stored
from tinylm_ablate.init.compatible import check_shapes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Parent:
    """A model to inherit from.

    Attributes:
        reference: The user's name for it.
        folder: Folder of its weights; for GGUF, the file.
        shape: Its shape.
        state: Its weights under Hugging Face's Llama names, read on first use unless they are in memory already.
        vocabulary: Its vocabulary, or None if the folder has none.
        window: Size of the attention window, or None: a sliding window matters only in longer sequences.
    """

    reference: str
    folder: Path
    shape: Shape
    state: Mapping[str, Tensor]
    vocabulary: FolderVocabulary | None
    window: int | None = None

    @property
    def description(self) -> str:
        """One-line description."""
        shape, total = self.shape, parameters(self.shape)["total"]
        return (
            f"{self.reference}: {total:,} parameters, {shape.depth} layers, width {shape.width}, FFN {shape.ffn_width}, "
            f"{shape.heads} heads of {shape.head_dim} ({shape.kv_heads} key-value), vocabulary {shape.vocab_size:,}"
        )

    @cached_property
    def fingerprint(self) -> str:
        """Identity of shape, weights and vocabulary, independent of the folder; reads all weights once."""
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
        reference: A folder (of a run, or in Hugging Face's layout), a GGUF file, the name of a packaged model
            (``formats.packaged``), or the identity of a run in ``runs_dir``.
        runs_dir: Folder of the runs.

    Raises:
        UserError: The model does not exist, is damaged, or has features that our decoder does not support.
    """
    path = _find(reference, runs_dir)
    stored = open_stored(path)
    if path.suffix == ".gguf":
        vocabulary = gguf_vocabulary(GgufFile(path))
    else:
        vocabulary = FolderVocabulary.read(path)
        if vocabulary is None and (path.parent / "config.yaml").is_file():  # a run may have its tokenizer next to its model
            vocabulary = FolderVocabulary.read(path.parent)
    return Parent(reference, path, stored.shape, stored.state, vocabulary, stored.window)


def check_parent(parent: Parent, child: Shape, context_length: int | None = None) -> list[str]:
    """Reasons why ``child`` cannot inherit from ``parent``, one line each.

    Args:
        parent: An opened parent.
        child: Shape of the child.
        context_length: Tokens per sequence of the child, to compare with a sliding window.
    """
    mistakes = check_shapes(parent.shape, child)
    if parent.vocabulary is None:
        mistakes.append(
            f"init.parent={parent.reference}: no tokenizer.json in {parent.folder}, so embedding rows cannot be matched"
        )
    if parent.window is not None and context_length is not None and context_length > parent.window:
        mistakes.append(
            f"train.context_length={context_length}: the parent attends to {parent.window} positions; allowed: at most as many"
        )
    return mistakes


def _sha256(tensor: Tensor) -> str:
    import torch

    return hashlib.sha256(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()


def _find(reference: str, runs_dir: Path) -> Path:
    """Resolve a reference to the folder with config.json and weights, or to the GGUF file."""
    if reference in PACKAGED:
        return packaged(reference)
    if reference.endswith(".gguf"):
        if (path := Path(reference).expanduser()).is_file():
            return path
        raise UserError(f"init.parent={reference}: no such file")
    candidates = [Path(reference).expanduser(), runs_dir / reference]
    for folder in candidates:
        if (folder / "model" / "config.json").is_file():
            return folder / "model"
        if (folder / "config.json").is_file():
            return folder
    for folder in candidates:
        if folder.is_dir():
            raise UserError(
                f"init.parent={reference}: {folder} has neither config.json nor model/config.json; a run has a model once "
                "it is finished, with train.keep_model=true; a Hugging Face folder has config.json, model.safetensors and "
                "tokenizer.json"
            )
    raise UserError(f"init.parent={reference}: no such folder, and no run of that name in {runs_dir}")
