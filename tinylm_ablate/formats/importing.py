"""Large tokenizers from the four formats in which they are given away, told apart by their content.

- ``tokenizer.json`` of the Hugging Face library: byte-level BPE or BPE with byte fallback.
- tiktoken ranks: lines of a Base64 entry and its rank. Such a file says neither how text is split before merging nor which
  special tokens there are. The split is taken to be the one of GPT-4 and Qwen, with runs of up to three digits where the
  ranks hold such runs (GPT-4) and single digits where they do not (Qwen); ``<|endoftext|>`` is added behind the last rank.
- a GGUF file with a byte-level BPE. It names the split by a rule of llama.cpp's, of which ``gguf_tokenizer`` knows some.
- a SentencePiece model of type BPE. Pieces without byte fallback get the 256 byte pieces behind the last one.

All of them end in the exact form of ``lossless``. Nothing here unpickles or runs code from a file.
"""

from __future__ import annotations

import base64
import binascii
import functools
import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tinylm_ablate.errors import UserError
from tinylm_ablate.files import sha256_file
from tinylm_ablate.formats.alphabet import SPACE, byte_characters
from tinylm_ablate.formats.lossless import State, make_lossless, special_token
from tinylm_ablate.formats.merges import last_pair
from tinylm_ablate.formats.packaged import PACKAGED, packaged

_EXPECTED = "expected a tokenizer.json, a file of tiktoken ranks, a GGUF file, or a SentencePiece model"
_CONFIG = "tokenizer_config.json"
_RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")
#: The fields of SentencePiece's ModelProto that say what a piece is.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SENTENCEPIECE_BPE = 2


@dataclass(frozen=True)
class Imported:
    """A tokenizer in exact form.

    Attributes:
        state: The tokenizer in the layout of a tokenizer.json.
        end_of_text: Its end-of-text token.
        format: "tokenizer.json", "tiktoken", "gguf" or "sentencepiece".
    """

    state: State
    end_of_text: str
    format: str

    @property
    def size(self) -> int:
        """Rows that an embedding needs: the highest id and one."""
        vocab: dict[str, int] = self.state["model"]["vocab"]
        return max(vocab.values()) + 1


def source_file(source: str | Path) -> Path:
    """The file that ``tokenizer.source`` means: a path; of a folder, its tokenizer.json; or that of a packaged model's name.

    Raises:
        UserError: There is no such file.
    """
    if str(source) in PACKAGED:
        return packaged(str(source), "tokenizer.source")
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"tokenizer.source={source}: no such file ({path}); {_EXPECTED}")
    return path


def source_identity(source: str | Path) -> dict[str, str]:
    """What an imported tokenizer is made of: the SHA-256 of each file that is read.

    Raises:
        UserError: There is no such file.
    """
    path = source_file(source)
    return {file.name: sha256_file(file) for file in (path, path.with_name(_CONFIG)) if file.is_file()}


def import_tokenizer(source: str | Path) -> Imported:
    """Read a tokenizer of any of the four formats.

    Raises:
        UserError: The file is missing or malformed, or its tokenizer loses text; the message names it and what was expected.
    """
    path = source_file(source)
    stat = path.stat()
    return _import(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4)
def _import(path: Path, _modified: int, _size: int) -> Imported:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {_EXPECTED}") from error
    if not content.strip():
        raise UserError(f"{path}: is empty; {_EXPECTED}")
    named = None
    if content.lstrip()[:1] == b"{":
        name, state = "tokenizer.json", _read_json(content, path)
        named = _named_end_of_text(path.with_name(_CONFIG))
    elif content[:4] == b"GGUF":
        name, (state, named) = "gguf", _read_gguf(path)
    elif _RANK_LINE.fullmatch(content.split(b"\n", 1)[0].strip()):
        name, state = "tiktoken", _read_ranks(content, path)
    else:
        name, state = "sentencepiece", _read_sentencepiece(content, path)
    exact, end_of_text = make_lossless(state, path, named)
    return Imported(exact, end_of_text, name)


def _named_end_of_text(path: Path) -> str | None:
    """The ``eos_token`` of the tokenizer_config.json beside a tokenizer.json, where there is one."""
    try:
        token = json.loads(path.read_text(encoding="utf-8")).get("eos_token")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: expected a JSON object, with the end-of-text token under eos_token") from error
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _read_json(content: bytes, path: Path) -> State:
    try:
        plain = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path}: is not JSON ({error}); {_EXPECTED}") from error
    kind = plain["model"].get("type", "BPE") if isinstance(plain.get("model"), dict) else None
    if kind is None:
        raise UserError(f"{path}: has no `model`; {_EXPECTED}")
    if kind != "BPE":
        raise UserError(f"{path}: the model is {kind}; expected a BPE, byte-level or with byte fallback")
    try:
        # The library fills in what older files leave out, and writes merges in one way.
        return dict(json.loads(Tokenizer.from_str(content.decode()).to_str()), added_tokens=plain.get("added_tokens", []))
    except Exception as error:  # the library raises bare exceptions
        raise UserError(f"{path}: the library `tokenizers` cannot read it ({error}); {_EXPECTED}") from error


def _read_ranks(content: bytes, path: Path) -> State:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            if not _RANK_LINE.fullmatch(line.strip()):
                raise ValueError
            entry, rank = line.split()
            ranks[base64.b64decode(entry, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise UserError(f"{path}: line {number} is {line[:40]!r}; expected a Base64 entry, a space and its rank") from error
    single = byte_characters()
    write = {entry: "".join(single[byte] for byte in entry) for entry in ranks}
    entries = sorted((entry for entry in ranks if len(entry) > 1), key=ranks.__getitem__)
    pairs = (last_pair([bytes([byte]) for byte in entry], lambda left, right: ranks.get(left + right)) for entry in entries)
    merges = [[write[left], write[right]] for left, right in filter(None, pairs)]
    digits = "{1,3}" if b"12" in ranks or b"123" in ranks else ""
    split = {"type": "Split", "pattern": {"Regex": _gpt4_split(digits)}, "behavior": "Isolated", "invert": False}
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocab = {write[entry]: rank for entry, rank in ranks.items()}
    # tiktoken looks a whole word up before it merges.
    model = {"type": "BPE", "byte_fallback": False, "ignore_merges": True, "vocab": vocab, "merges": merges}
    return {
        "added_tokens": [], "normalizer": None, "model": model,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes_only]},
    }  # fmt: skip


def _read_gguf(path: Path) -> tuple[State, str | None]:
    """The tokenizer of a GGUF file, and its end-of-text token."""
    from tinylm_ablate.formats import gguf, gguf_tokenizer

    file = gguf.read(path)
    state, rule = gguf_tokenizer.tokenizer_state(file, path), gguf.value(file, "tokenizer.ggml.pre")
    if state is None:
        raise UserError(f"{path}: holds no tokenizer (tokenizer.ggml.tokens); {_EXPECTED}")
    if state["pre_tokenizer"] is None:
        kind = gguf.value(file, "tokenizer.ggml.model")
        raise UserError(
            f"{path}: tokenizer.ggml.model={kind} tokenizer.ggml.pre={rule}: how it splits text is not known here; allowed: "
            f"gpt2 with {' or '.join(gguf_tokenizer.SPLITS)}, or the model's own tokenizer.json"
        )
    last, names = gguf_tokenizer.end_of_text(file), list(state["model"]["vocab"])
    return state, names[last] if last is not None else None


def _gpt4_split(digits: str) -> str:
    """How GPT-4 (cl100k_base) and Qwen split text, up to the digits that may stand together."""
    contraction = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    word = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    symbols = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
    return "|".join([contraction, word, rf"\p{{N}}{digits}", symbols, r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])


def _read_sentencepiece(content: bytes, path: Path) -> State:
    proto = _parse_sentencepiece(content, path)
    if proto.trainer_spec.model_type != _SENTENCEPIECE_BPE:
        raise UserError(f"{path}: a SentencePiece model that is no BPE; expected --model_type=bpe")
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise UserError(
            f"{path}: a SentencePiece model that does not write a space as a leading {SPACE}; expected one that does"
        )
    pieces = {piece.piece: identity for identity, piece in enumerate(proto.pieces)}
    normal = [piece for piece in proto.pieces if piece.type == _NORMAL]
    ranks = {piece.piece: rank for rank, piece in enumerate(sorted(normal, key=lambda piece: -piece.score))}
    pairs = (last_pair(piece, lambda left, right: ranks.get(left + right)) for piece in ranks if len(piece) > 1)
    merges = [list(pair) for pair in pairs if pair is not None]
    tokens = [
        special_token(piece.piece, pieces[piece.piece])
        for piece in proto.pieces
        if piece.type in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]
    prefix = {"type": "Prepend", "prepend": SPACE} if proto.normalizer_spec.add_dummy_prefix else None
    model = {"type": "BPE", "byte_fallback": True, "ignore_merges": False, "vocab": pieces, "merges": merges}
    return {"added_tokens": tokens, "normalizer": prefix, "pre_tokenizer": None, "model": model}


def _parse_sentencepiece(content: bytes, path: Path) -> Any:
    try:
        model_format: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError as error:
        raise UserError(f"{path}: {_EXPECTED}; to read a SentencePiece model: pip install sentencepiece protobuf") from error
    try:
        proto = model_format.ModelProto.FromString(content)
    except Exception as error:  # DecodeError, of a module without types
        raise UserError(f"{path}: is none of the known formats; {_EXPECTED}") from error
    if not proto.pieces:
        raise UserError(f"{path}: is none of the known formats; {_EXPECTED}")
    return proto
