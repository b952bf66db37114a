"""Weights in a folder of safetensors files, read one tensor at a time. Nothing is unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.json_file import read_object

if TYPE_CHECKING:
    from torch import Tensor

_WEIGHT_TYPES = {"F64", "F32", "F16", "BF16"}


class LazyState(Mapping[str, "Tensor"]):
    """The tensors of a folder of safetensors, read from disk at every use.

    Attributes:
        files: Tensor -> its file.
        sizes: Tensor -> its size, from the headers.
    """

    def __init__(self, folder: Path) -> None:
        """Read the index and the headers.

        Raises:
            UserError: There are no safetensors, a shard is missing or broken, or the weights are quantized.
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
                            raise UserError(f"{path}: {name} is {part.get_dtype()}; quantized weights cannot be inherited")
                        found[name], self.sizes[name] = path, tuple(part.get_shape())
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: not a complete safetensors file ({error}); copy it again") from error
        if absent := sorted(set(listed) - set(found)):
            raise UserError(f"{folder}: the index lists {_some(absent)}, which is not in the files; copy them again")
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


def _listed(folder: Path) -> dict[str, str]:
    """Return tensor -> file from the index of a sharded model; empty without one."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return {}
    listed = read_object(path).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) and Path(file).name == file for file in listed.values()):
        raise UserError(f"{path}: weight_map is not a list of files in this folder; copy it again")
    return listed


def _weight_files(folder: Path, listed: Mapping[str, str]) -> list[Path]:
    paths = [folder / name for name in sorted(set(listed.values()))] or sorted(folder.glob("*.safetensors"))
    if absent := [path.name for path in paths if not path.is_file()]:
        raise UserError(f"{folder}: the index lists {_some(absent)}, which does not exist; copy it too")
    if not paths:
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in sorted(folder.glob(pattern))]
        advice = (
            f"{_some(pickles)} is a pickle, which can run any code and is not read; if you trust it, convert it with "
            "AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
            if pickles
            else "copy model.safetensors there"
        )
        raise UserError(f"{folder}: no safetensors here; {advice}")
    return paths


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
