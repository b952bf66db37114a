"""An exact form for all tokenizers, in which decoding restores every text.

Bits per byte are computed on the original text, so a vocabulary that loses characters would make its model look better. Every
tokenizer, trained or imported, is therefore converted to this form, in the format of ``tokenizer.json``:

- *byte-level* (GPT-2 and successors): the pre-tokenizer is kept, but never inserts a space before the text;
- *byte fallback* (SentencePiece): a space is written as U+2581, and a dummy space precedes the text if the source does
  this; the character U+2581 itself is escaped, since SentencePiece would turn it into a space;
- normalizers that lose text (NFC, NFKC, lower case, collapsed spaces) are removed, and so are truncation, padding, dropout
  and templates that add tokens: a run inserts its own end-of-text tokens;
- every entry has at most one merge (see ``merges``), and no merge results in a special token;
- each of the 256 bytes has an entry, and there is an end-of-text token; missing ones are added after the last entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.alphabet import BYTE_PIECES, SPACE, byte_characters
from tinylm_ablate.formats.merges import live_merges, unreachable
from tinylm_ablate.formats.tokenizer_json import MOST_ID, check_lengths, open_state
from tinylm_ablate.formats.tokenizer_json import State as State

#: The token between documents for tokenizers that have none of the names below.
END_OF_TEXT = "<|endoftext|>"

#: End-of-text tokens of public tokenizers, in order of preference.
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<｜end▁of▁sentence｜>", "</s>", "<eos>", "<|im_end|>")

_ESCAPE = "\ue000"

#: Bytes that every byte-level vocabulary has; others may be missing if they did not occur in its training text.
_ASCII = frozenset(byte_characters()[0x20:0x7F])

#: Texts that lossy tokenizers often change.
_PROBES = (
    "",
    " ",
    "  a  b ",
    "\ta\r\n\r\n b\n",
    "It's 1234567 Straße, İi ﬁ ½ ①",
    "e\u0301 \u00e9 \u212b ＡＢＣ，。！ \u3000全角",
    "中文与English混排，𠮷野家。",
    "👩‍👩‍👧 \u200b\ufeff\u00a0\u2028",
    "한국어 العربية हिन्दी русский",
    "<0x41> <unk> </s> [UNK] ##a a</w> Ġ Ċ",
    f"{SPACE}a {SPACE}{SPACE} {_ESCAPE}0{_ESCAPE}1{_ESCAPE}",
    "".join(map(chr, range(0x180))),
)


def special_token(content: str, identity: int) -> dict[str, Any]:
    """Return an entry of ``added_tokens`` that text never produces."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": identity, "content": content, **flags, "special": True}


def open_tokenizer(state: State) -> Tokenizer:
    """Return a tokenizer that encodes special tokens in a text as text."""
    tokenizer = open_state(state, "the tokenizer")
    tokenizer.encode_special_tokens = True
    return tokenizer


def base_entries(state: State) -> set[str]:
    """Return the entries of the 256 bytes."""
    return set(BYTE_PIECES) if state["model"]["byte_fallback"] else set(byte_characters())


def added(state: State) -> dict[str, int]:
    """Return the added tokens, special or not, with their ids."""
    return {token["content"]: token["id"] for token in state["added_tokens"]}


def dead_entries(state: State) -> set[str]:
    """Return the entries that no text produces, except for special tokens."""
    if state["model"].get("ignore_merges"):
        return set()
    given = set(added(state)) | base_entries(state)
    return unreachable(state["model"]["vocab"], state["model"]["merges"], given)


def has_dummy_prefix(state: State) -> bool:
    """Return whether encoding inserts a space before every text, which decoding removes."""
    return any(part["type"] == "Prepend" for part in _parts(state["normalizer"], "normalizers"))


def without_dummy_prefix(state: State) -> State:
    """Return the same tokenizer for pieces from inside a text."""
    if not has_dummy_prefix(state):
        return state
    steps = [part for part in _parts(state["normalizer"], "normalizers") if part["type"] != "Prepend"]
    return state | {"normalizer": {"type": "Sequence", "normalizers": steps}}


def make_lossless(state: State, source: Path | str, end_of_text: str | None = None) -> tuple[State, str]:
    """Convert a tokenizer to the exact form.

    Args:
        state: The tokenizer, a BPE; it is not changed.
        source: Its file, for messages.
        end_of_text: The end-of-text token in a neighboring file, used if none of the known names exists.

    Returns:
        The tokenizer in exact form, and its end-of-text token.

    Raises:
        UserError: The model is not a BPE that can encode any byte, or a text is not restored.
    """
    model = dict(state["model"])
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        kind = model.get("type") if model.get("type") != "BPE" else "BPE with marked word ends"
        raise UserError(f"{source}: the model is {kind}; expected a BPE, byte-level or with byte fallback")
    # For added tokens outside the vocabulary, the library assigns the next free id instead of the file's.
    vocab = {token["content"]: token["id"] for token in state["added_tokens"]} | model["vocab"]
    tokens = [dict(token, id=vocab[token["content"]], lstrip=False, rstrip=False) for token in state["added_tokens"]]
    if len(set(vocab.values())) != len(vocab):
        raise UserError(f"{source}: two entries share an id; expected one id for each entry of the vocabulary")

    check_lengths(vocab, source)
    if not all(0 <= number <= MOST_ID for number in vocab.values()):
        raise UserError(f"{source}: an id is not between 0 and {MOST_ID:,}; an embedding has a row for each id")

    fallback = bool(model.get("byte_fallback"))
    next_id = max(vocab.values()) + 1
    if fallback:
        missing = [piece for piece in BYTE_PIECES if piece not in vocab]
        vocab |= {piece: next_id + at for at, piece in enumerate(missing)}
        next_id += len(missing)
        pipeline = _fallback_pipeline(state, vocab)
        # Runs of spaces among the added tokens are ordinary entries, which merging finds.
        tokens = [token for token in tokens if token["special"] or SPACE not in token["content"]]
        if has_dummy_prefix(pipeline):
            # Text around an added token would get its own dummy space, so added tokens are not matched in text.
            tokens = [dict(token, special=True) for token in tokens]
    else:
        missing = [character for character in byte_characters() if character not in vocab]
        if set(missing) & _ASCII:
            expected = "expected a byte-level BPE or one with byte fallback"
            raise UserError(f"{source}: {len(missing)} of the 256 bytes have no entry; {expected}")
        # Some vocabularies, such as SmolLM2's, were trained on text in which some bytes do not occur.
        vocab |= {character: next_id + at for at, character in enumerate(missing)}
        next_id += len(missing)
        pipeline = _byte_level_pipeline(state)

    names = {token["content"] for token in tokens}
    found = next((name for name in (*END_OF_TEXT_NAMES, end_of_text) if name in names), None)
    if found is None:
        found = END_OF_TEXT if END_OF_TEXT not in vocab else f"{END_OF_TEXT}{next_id}"
        tokens.append(special_token(found, next_id))
        vocab[found] = next_id
    tokens = [dict(token, special=token["special"] or token["content"] == found) for token in tokens]

    special = {token["content"] for token in tokens}
    merges = live_merges(vocab, model["merges"], special)
    exact: State = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(tokens, key=lambda token: int(token["id"])),
        **pipeline,
        "post_processor": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": fallback,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [list(pair) for pair in merges],
        },
    }
    # For whole words that are in the vocabulary without a merge path; otherwise the flag has no effect.
    exact["model"]["ignore_merges"] = bool(model.get("ignore_merges")) and bool(dead_entries(exact))
    _check(exact, source)
    return exact, found


def _parts(component: State | None, key: str) -> Iterator[State]:
    """Return the steps of a normalizer, pre-tokenizer or decoder, with sequences flattened."""
    if component is None:
        return
    if component["type"] == "Sequence":
        for part in component[key]:
            yield from _parts(part, key)
    else:
        yield component


def _replace(pattern: str, content: str) -> State:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def _byte_level_pipeline(state: State) -> State:
    steps = [
        dict(part, add_prefix_space=False) if part["type"] == "ByteLevel" else part
        for part in _parts(state["pre_tokenizer"], "pretokenizers")
    ]
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    }


def _fallback_pipeline(state: State, vocab: Iterable[str]) -> State:
    steps = list(_parts(state["pre_tokenizer"], "pretokenizers"))
    spaces = [part for part in steps if part["type"] == "Metaspace"]
    prefix = any(part["type"] == "Prepend" for part in _parts(state["normalizer"], "normalizers")) or any(
        part.get("prepend_scheme", "always") != "never" for part in spaces
    )
    steps = [part for part in steps if part["type"] != "Metaspace"]
    if any(part.get("split", True) for part in spaces):
        steps.append({"type": "Split", "pattern": {"String": SPACE}, "behavior": "MergedWithNext", "invert": False})
    elif not any(SPACE in entry.lstrip(SPACE) for entry in vocab):
        # No merge joins a word to a following space, so a cut there only saves time: short words are cached.
        pattern = {"Regex": f"{SPACE}*[^{SPACE}]+|{SPACE}+"}
        steps.append({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False})
    escape = [_replace(_ESCAPE, f"{_ESCAPE}0"), _replace(SPACE, f"{_ESCAPE}1")]
    unescape = [_replace(f"{_ESCAPE}1", SPACE), _replace(f"{_ESCAPE}0", _ESCAPE)]
    prepend = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    # The mark of a space may itself be encoded in bytes, so it is replaced after decoding them.
    decoders = [{"type": "ByteFallback"}, {"type": "Fuse"}, _replace(SPACE, " "), *unescape, *strip]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*escape, *prepend, _replace(" ", SPACE)]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "Sequence", "decoders": decoders},
    }


def _check(state: State, source: Path | str) -> None:
    """Refuse a tokenizer that loses text, or that encodes text as special tokens."""
    tokenizer = open_state(state, source)
    tokenizer.encode_special_tokens = True
    for probe in _PROBES:
        ids = tokenizer.encode(probe, add_special_tokens=False).ids
        if (back := tokenizer.decode(ids, skip_special_tokens=False)) != probe:
            raise UserError(f"{source}: loses text, which bits per byte does not allow: {probe!r} is decoded as {back!r}")
    special = {token["id"] for token in state["added_tokens"] if token["special"]}
    for token in state["added_tokens"]:
        if token["special"] and special & set(tokenizer.encode(token["content"], add_special_tokens=False).ids):
            raise UserError(f"{source}: the text {token['content']!r} is encoded as the special token of that name")
