"""Models in a Hugging Face folder or a GGUF file, opened without reading weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.arch.shapes import Shape
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.json_file import read_object
from tinylm_ablate.formats.model_config import check_tensors, read_shape
from tinylm_ablate.formats.safetensors_folder import LazyState

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Stored:
    """A model whose weights match its shape.

    Attributes:
        shape: Its shape.
        state: Its weights under Hugging Face's names; each is read on first use.
        window: Size of the attention window, or None: a sliding window matters only in longer sequences.
        context_length: Maximum sequence length in tokens, None if the model does not state it.
    """

    shape: Shape
    state: Mapping[str, Tensor]
    window: int | None
    context_length: int | None


def open_stored(path: Path) -> Stored:
    """Open a folder in Hugging Face's layout with safetensors, or a GGUF file; reads headers, not weights.

    Raises:
        UserError: The model does not exist, is damaged, or is not supported by the decoder.
    """
    if path.suffix == ".gguf":
        stored = _open_gguf(path)
    else:
        config = read_object(path / "config.json", "choose a folder with a model")
        shape, window = read_shape(config, path / "config.json")
        length = config.get("max_position_embeddings")
        stored = Stored(shape, LazyState(path), window, length if isinstance(length, int) else None)
    sizes: Mapping[str, tuple[int, ...]] = stored.state.sizes  # type: ignore[attr-defined]
    if mistakes := check_tensors(sizes, stored.shape):
        raise UserError(f"{path}: {'; '.join(mistakes)}")
    return stored


def _open_gguf(path: Path) -> Stored:
    from tinylm_ablate.formats import gguf
    from tinylm_ablate.formats.gguf_file import GgufFile

    file = GgufFile(path)
    shape, window = gguf.shape_of(file)
    length = file.value(f"{file.value('general.architecture')}.context_length")
    return Stored(shape, gguf.GgufState(file, shape), window, length if isinstance(length, int) else None)
