"""The GGUF container format: metadata and positions of tensors.

The format is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. This module
reads the header itself, in order to check every number in it against the size of the file before allocating memory; the
package ``gguf`` expands the blocks of quantized types.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tinylm_ablate.errors import UserError

_MAGIC = b"GGUF"

#: Code of a number's type -> its format for ``struct``.
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

#: Code of a tensor's type -> NumPy's type, for types that are not quantized.
_NATIVE = {0: "<f4", 1: "<f2", 28: "<f8"}

#: Limits far above those of any model.
_MOST_ENTRIES, _MOST_TENSORS, _MOST_STRINGS, _MOST_NAME = 65_536, 200_000, 2**22, 65_536


@dataclass(frozen=True)
class GgufTensor:
    """Location of a tensor in the file.

    Attributes:
        kind: Code of its type.
        size: Rows first, as in PyTorch.
        start: Offset in the file, bytes.
        bytes: Size in bytes.
    """

    kind: int
    size: tuple[int, ...]
    start: int
    bytes: int


class GgufFile:
    """An open GGUF file, with its header read.

    Attributes:
        path: The file.
        metadata: Key -> value; arrays of numbers are NumPy arrays, those of strings are lists.
        tensors: Name -> location.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            UserError: It is not a complete GGUF file, or the package ``gguf`` is not installed.
        """
        try:
            from gguf import GGML_QUANT_SIZES, quants
        except ImportError as error:
            raise UserError(f"{path}: reading GGUF files needs a package; pip install gguf") from error
        self.path = path
        #: Code of a tensor's type -> entries and bytes per block, for types that can be expanded.
        self._blocks = {
            int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items() if int(kind) in _NATIVE or kind in quants._type_traits
        }
        try:
            with path.open("rb") as file:
                reader = _Reader(file, path.stat().st_size)
                self.metadata = reader.metadata()
                self.tensors = self._read_tensors(reader)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise UserError(f"{path}: not a complete GGUF file ({error}); copy it again") from error

    def value(self, key: str, default: Any = None) -> Any:
        """Return one entry of the metadata."""
        return self.metadata.get(key, default)

    def expanded(self, name: str) -> np.ndarray:
        """Read a tensor in single precision."""
        from gguf import GGMLQuantizationType, dequantize

        tensor = self.tensors[name]
        blocks = self._map[tensor.start : tensor.start + tensor.bytes]
        if (native := _NATIVE.get(tensor.kind)) is not None:
            return np.frombuffer(blocks.tobytes(), dtype=native).astype(np.float32).reshape(tensor.size)
        rows = blocks.reshape(*tensor.size[:-1], -1)
        return np.asarray(dequantize(rows, GGMLQuantizationType(tensor.kind)), dtype=np.float32).reshape(tensor.size)

    @cached_property
    def _map(self) -> np.ndarray:
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    def _read_tensors(self, reader: _Reader) -> dict[str, GgufTensor]:
        found: dict[str, tuple[int, tuple[int, ...], int]] = {}
        for _ in range(reader.tensors):
            name = reader.string(_MOST_NAME)
            dimensions = reader.number("I")
            if name in found or not 1 <= dimensions <= 4:
                raise ValueError(f"tensor {name!r:.60} occurs twice or has {dimensions} dimensions")
            # GGUF lists the innermost dimension first.
            size = tuple(reversed([reader.number("Q") for _ in range(dimensions)]))
            found[name] = reader.number("I"), size, reader.number("Q")
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
            raise ValueError(f"general.alignment is {alignment!r:.60}")
        data = -(-reader.at // alignment) * alignment
        tensors = {}
        for name, (kind, size, offset) in found.items():
            if kind not in self._blocks:
                raise ValueError(f"tensor {name!r:.60} is of type {kind}, which cannot be expanded")
            entries, bytes_ = self._blocks[kind]
            length, rest = divmod(math.prod(size), entries)
            if min(size) < 1 or size[-1] % entries or rest or data + offset + length * bytes_ > reader.end:
                raise ValueError(f"tensor {name!r:.60} of size {size} is not within the file")
            tensors[name] = GgufTensor(kind, size, data + offset, length * bytes_)
        return tensors


class _Reader:
    """Reader of a file's header that checks every read against the size of the file."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self.file, self.end, self.at = file, end, 0
        if self.take(4) != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = self.number("I")
        if version not in (2, 3):
            raise ValueError(f"version {version}; allowed: 2, 3, little-endian")
        self.tensors, self.entries = self.number("Q"), self.number("Q")
        # The entry of a tensor has at least 32 bytes, one of the metadata at least 13.
        if self.tensors > min(_MOST_TENSORS, end // 32) or self.entries > min(_MOST_ENTRIES, end // 13):
            raise ValueError(f"it declares {self.tensors:,} tensors and {self.entries:,} entries in {end:,} bytes")

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            raise ValueError(f"it ends within {count:,} bytes at {self.at:,}")
        self.at += count
        return self.file.read(count)

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(form)))[0]

    def string(self, most: int) -> str:
        length = self.number("Q")
        if length > most:
            raise ValueError(f"a text of {length:,} bytes at {self.at:,}; allowed: at most {most:,}")
        return self.take(length).decode("utf-8")

    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(self.entries):
            key = self.string(_MOST_NAME)
            if key in found:
                raise ValueError(f"{key!r:.60} occurs twice")
            kind = self.number("I")
            try:
                found[key] = self.array() if kind == _ARRAY else self.one(kind)
            except ValueError as error:
                raise ValueError(f"{key!r:.60}: {error}") from None
        return found

    def one(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string(2**24)
        if kind not in _NUMBERS:
            raise ValueError(f"a value of the unknown type {kind}")
        return self.number(_NUMBERS[kind])

    def array(self) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind == _STRING:
            if count > min(_MOST_STRINGS, (self.end - self.at) // 8):
                raise ValueError(f"{count:,} texts; allowed: at most {_MOST_STRINGS:,}, within the file")
            return [self.string(2**20) for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"an array of the unknown type {kind}")
        width = struct.calcsize(_NUMBERS[kind])
        return np.frombuffer(self.take(count * width), dtype=np.dtype(_NUMBERS[kind]).newbyteorder("<"))
