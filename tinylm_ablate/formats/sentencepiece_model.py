"""SentencePiece models of type BPE."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.alphabet import SPACE
from tinylm_ablate.formats.lossless import special_token
from tinylm_ablate.formats.merges import NEVER, last_pair
from tinylm_ablate.formats.tokenizer_json import EXPECTED, State, check_lengths

#: Values of ``type`` in SentencePiece's ModelProto.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SENTENCEPIECE_BPE = 2


def read_sentencepiece(content: bytes, path: Path) -> State:
    """Read the tokenizer of a SentencePiece model.

    Raises:
        UserError: It is not a SentencePiece model, not a BPE, or represents spaces differently.
    """
    proto = _parse_sentencepiece(content, path)
    if proto.trainer_spec.model_type != _SENTENCEPIECE_BPE:
        raise UserError(f"{path}: this SentencePiece model is not a BPE; expected --model_type=bpe")
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise UserError(
            f"{path}: this SentencePiece model does not represent a space as a leading {SPACE}; expected one that does"
        )
    if not all(isinstance(piece.piece, str) for piece in proto.pieces):
        raise UserError(f"{path}: a piece is not in UTF-8; copy it again")
    check_lengths([piece.piece for piece in proto.pieces], path)
    pieces = {piece.piece: identity for identity, piece in enumerate(proto.pieces)}
    normal = [piece for piece in proto.pieces if piece.type == _NORMAL]
    ranks = {piece.piece: rank for rank, piece in enumerate(sorted(normal, key=lambda piece: -piece.score))}
    pairs = (last_pair(piece, lambda left, right: ranks.get(left + right, NEVER)) for piece in ranks if len(piece) > 1)
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
        raise UserError(f"{path}: to read a SentencePiece model: pip install sentencepiece protobuf") from error
    try:
        proto = model_format.ModelProto.FromString(content)
    except Exception as error:  # DecodeError, from a module without types
        raise UserError(f"{path}: unknown format; {EXPECTED}") from error
    if not proto.pieces:
        raise UserError(f"{path}: is none of the known formats; {EXPECTED}")
    return proto
