"""A model as others keep it, a folder or a GGUF file: its shape and its weights, of which none is read yet."""

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
    """A model whose weights have all the sizes that its shape says.

    Attributes:
        shape: Its sizes.
        state: Its weights under Hugging Face's names; each is read at its first use.
        window: Positions that attention looks back, None for all: a sliding window matters in longer sequences only.
        context_length: Tokens of its longest sequences, None where the model does not say.
    """

    shape: Shape
    state: Mapping[str, Tensor]
    window: int | None
    context_length: int | None


def open_stored(path: Path) -> Stored:
    """Open a folder in Hugging Face's layout with safetensors, or a GGUF file; reads headers, not weights.

    Raises:
        UserError: There is no model, it is damaged, or the decoder cannot express it.
    """
    if path.suffix == ".gguf":
        stored = _open_gguf(path)
    else:
        config = read_object(path / "config.json", "name a folder that holds a model")
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
