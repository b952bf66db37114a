"""tiktoken ranks: lines with a Base64 entry and its rank."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path
from typing import Any

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.alphabet import byte_characters
from tinylm_ablate.formats.merges import NEVER, last_pair
from tinylm_ablate.formats.tokenizer_json import State, check_lengths

RANK_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")


def read_ranks(content: bytes, path: Path) -> State:
    """Read a tokenizer from a file of ranks, with the pre-tokenization of GPT-4 and Qwen.

    Raises:
        UserError: A line is not an entry with a rank.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            if not RANK_LINE.fullmatch(line.strip()):
                raise ValueError
            entry, rank = line.split()
            ranks[base64.b64decode(entry, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise UserError(f"{path}: line {number} is {line[:40]!r}; expected a Base64 entry, a space and its rank") from error
    check_lengths(ranks, path)
    single = byte_characters()
    write = {entry: "".join(single[byte] for byte in entry) for entry in ranks}
    entries = sorted((entry for entry in ranks if len(entry) > 1), key=ranks.__getitem__)
    pairs = (
        last_pair([bytes([byte]) for byte in entry], lambda left, right: ranks.get(left + right, NEVER)) for entry in entries
    )
    merges = [[write[left], write[right]] for left, right in filter(None, pairs) if left in write and right in write]
    vocab = {write[entry]: rank for entry, rank in ranks.items()}
    # tiktoken looks up a whole word before merging.
    model = {"type": "BPE", "byte_fallback": False, "ignore_merges": True, "vocab": vocab, "merges": merges}
    steps = gpt4_split("{1,3}" if b"12" in ranks or b"123" in ranks else "")
    return {
        "added_tokens": [], "normalizer": None, "model": model,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
    }  # fmt: skip


def gpt4_split(digits: str) -> list[dict[str, Any]]:
    """Pre-tokenization of GPT-4 (cl100k_base), Llama 3 and Qwen, as steps of a pre-tokenizer.

    Args:
        digits: "" for single digits, "{1,3}" for runs of up to three.
    """
    contraction = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    word = r"[^\r\n\p{L}\p{N}]?\p{L}+"
    symbols = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
    regex = "|".join([contraction, word, rf"\p{{N}}{digits}", symbols, r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"])
    return [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
