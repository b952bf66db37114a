"""The ``tokenizer.json`` of the Hugging Face library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.json_file import parse_object

#: A tokenizer in the format of tokenizer.json.
State = dict[str, Any]

#: Supported formats of tokenizers, for messages.
EXPECTED = "expected a tokenizer.json, a file of tiktoken ranks, a GGUF file, or a SentencePiece model"

#: Maximum characters per entry, several times those of public vocabularies: finding its parts takes quadratic time.
MOST_CHARACTERS = 1_024

#: Larger ids are treated as damage; the largest public vocabulary has a sixtieth of them.
MOST_ID = 2**24

#: Flags of an added token, with their defaults for older files.
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


def open_json(content: bytes | str, source: Path | str) -> Tokenizer:
    """Open the content of a tokenizer.json with the library; raises the errors of ``open_state``."""
    return open_state(parse_object(content, Path(source), "expected a tokenizer.json"), source)


def open_state(state: State, source: Path | str) -> Tokenizer:
    """Open a state with the library.

    Raises:
        UserError: The library cannot read it, or an id is too high: the library iterates over all ids below it.
    """
    model = state.get("model")
    prefix = model.get("continuing_subword_prefix") if isinstance(model, dict) and model.get("type", "BPE") == "BPE" else None
    if prefix:  # the library removes it from every entry, and panics on shorter ones
        raise UserError(f"{source}: continuing_subword_prefix is {prefix!r:.60}; expected a BPE without subword prefixes")
    try:
        tokenizer = Tokenizer.from_str(json.dumps(state))
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises plain Exception, and panics in Rust are not an Exception
        raise UserError(f"{source}: the library `tokenizers` cannot read it ({error!s:.200}); copy it again") from error
    if highest > MOST_ID:
        raise UserError(f"{source}: an entry has the id {highest:,}; allowed: at most {MOST_ID:,}")
    return tokenizer


def read_tokenizer_json(content: bytes | str, path: Path) -> State:
    """Parse the content of a tokenizer.json, adding defaults that older files omit.

    Raises:
        UserError: It is not a BPE, or not readable.
    """
    plain = parse_object(content, path, "expected a tokenizer.json")
    kind = plain["model"].get("type", "BPE") if isinstance(plain.get("model"), dict) else None
    if kind is None:
        raise UserError(f"{path}: has no `model`; expected a tokenizer.json")
    if kind != "BPE":
        raise UserError(f"{path}: the model is {kind!s:.60}; expected a BPE, byte-level or with byte fallback")
    state = dict(json.loads(open_state(plain, path).to_str()))
    # The library assigns its own ids to added tokens outside the vocabulary; the file's ids are used instead.
    tokens = plain.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(_is_token(token) for token in tokens):
        raise UserError(f"{path}: added_tokens has an entry without content and id; expected both")
    return state | {"added_tokens": [_FLAGS | token for token in tokens]}


def _is_token(token: object) -> bool:
    return isinstance(token, dict) and isinstance(token.get("content"), str) and type(token.get("id")) is int


def check_lengths(entries: Any, source: Path | str) -> None:
    """Refuse a vocabulary with an entry of more than ``MOST_CHARACTERS``."""
    if (longest := max(map(len, entries), default=0)) > MOST_CHARACTERS:
        raise UserError(f"{source}: an entry of {longest:,} characters; allowed: at most {MOST_CHARACTERS:,}")
