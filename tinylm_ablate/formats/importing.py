"""Import of large tokenizers in four formats, which are recognized by content.

- ``tokenizer.json`` of the Hugging Face library: byte-level BPE or BPE with byte fallback.
- tiktoken ranks: lines with a Base64 entry and its rank. Such a file contains neither the pre-tokenization nor the special
  tokens. The pre-tokenization is assumed to be that of GPT-4 and Qwen, with runs of up to three digits if the ranks contain
  such runs (GPT-4) and single digits otherwise (Qwen); ``<|endoftext|>`` is added after the last rank.
- a GGUF file with a byte-level BPE. It names a pre-tokenization of llama.cpp, some of which ``gguf_tokenizer`` supports.
- a SentencePiece model of type BPE. If it has no byte fallback, the 256 byte pieces are added after its last piece.

All are converted to the exact form of ``lossless``. Nothing here unpickles or runs code from a file.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import sha256_file
from tinylm_ablate.formats.json_file import read_bytes, read_object
from tinylm_ablate.formats.lossless import State, make_lossless
from tinylm_ablate.formats.packaged import PACKAGED, packaged
from tinylm_ablate.formats.ranks import RANK_LINE, read_ranks
from tinylm_ablate.formats.sentencepiece_model import read_sentencepiece
from tinylm_ablate.formats.tokenizer_json import EXPECTED, read_tokenizer_json

_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class Imported:
    """A tokenizer in exact form.

    Attributes:
        state: The tokenizer in the format of tokenizer.json.
        end_of_text: Its end-of-text token.
        format: "tokenizer.json", "tiktoken", "gguf" or "sentencepiece".
    """

    state: State
    end_of_text: str
    format: str

    @property
    def size(self) -> int:
        """Rows that an embedding needs: the highest id plus one."""
        vocab: dict[str, int] = self.state["model"]["vocab"]
        return max(vocab.values()) + 1


def source_file(source: str | Path) -> Path:
    """Resolve ``tokenizer.source`` to a file: a path, the tokenizer.json of a folder, or the file of a packaged model.

    Raises:
        UserError: The file does not exist.
    """
    if str(source) in PACKAGED:
        return packaged(str(source), "tokenizer.source")
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"tokenizer.source={source}: no such file ({path}); {EXPECTED}")
    return path


def source_identity(source: str | Path) -> dict[str, str]:
    """Return the identity of an imported tokenizer: the SHA-256 of each of its files.

    Raises:
        UserError: The file does not exist.
    """
    path = source_file(source)
    return {file.name: sha256_file(file) for file in (path, path.with_name(_CONFIG)) if file.is_file()}


def import_tokenizer(source: str | Path) -> Imported:
    """Read a tokenizer of any of the four formats.

    Raises:
        UserError: The file is missing or malformed, or its tokenizer loses text; the message says what was expected.
    """
    path = source_file(source)
    stat = path.stat()
    return _import(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _import(path: Path, _modified: int, _size: int) -> Imported:
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {EXPECTED}") from error
    if start == b"GGUF":  # a complete model, of any size
        state, named = _read_gguf(path)
        return Imported(*make_lossless(state, path, named), "gguf")
    content, named = read_bytes(path, EXPECTED), None
    if not content.strip():
        raise UserError(f"{path}: is empty; {EXPECTED}")
    if content.lstrip()[:1] == b"{":
        name, state = "tokenizer.json", read_tokenizer_json(content, path)
        named = _named_end_of_text(path.with_name(_CONFIG))
    elif RANK_LINE.fullmatch(content.split(b"\n", 1)[0].strip()):
        name, state = "tiktoken", read_ranks(content, path)
    else:
        name, state = "sentencepiece", read_sentencepiece(content, path)
    return Imported(*make_lossless(state, path, named), name)


def _named_end_of_text(path: Path) -> str | None:
    """Return the ``eos_token`` in a tokenizer_config.json next to a tokenizer.json, if any."""
    if not path.exists():
        return None
    token = read_object(path, "expected the end-of-text token under eos_token").get("eos_token")
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _read_gguf(path: Path) -> tuple[State, str | None]:
    """Read the tokenizer of a GGUF file, and its end-of-text token."""
    from tinylm_ablate.formats import gguf_tokenizer
    from tinylm_ablate.formats.gguf_file import GgufFile

    file = GgufFile(path)
    state, rule = gguf_tokenizer.tokenizer_state(file), file.value("tokenizer.ggml.pre")
    if state is None:
        raise UserError(f"{path}: has no tokenizer (tokenizer.ggml.tokens); {EXPECTED}")
    if state["pre_tokenizer"] is None:
        kind = file.value("tokenizer.ggml.model")
        raise UserError(
            f"{path}: tokenizer.ggml.model={kind} tokenizer.ggml.pre={rule}: this pre-tokenization is not supported; allowed: "
            f"gpt2 with {' or '.join(gguf_tokenizer.SPLITS)}, or the model's own tokenizer.json"
        )
    last, names = gguf_tokenizer.end_of_text(file), list(state["model"]["vocab"])
    return state, names[last] if last is not None else None
