"""Rows of embedding and head for another vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tinylm_ablate.errors import UserError
from tinylm_ablate.formats.folder_vocabulary import FolderVocabulary
from tinylm_ablate.init.vocabulary_rows import RowMap, map_rows
from tinylm_ablate.tokenizer.compact import cut
from tinylm_ablate.tokenizer.train import train_bpe
from tinylm_ablate.tokenizer.vocabulary import write_vocabulary

TEXT = [
    "the cat sat on the mat, and the dog sat on the log",
    "今天天气很好,我们去公园散步",
    "naïve café 12345 <0x41>\n\n  end",
    "shall i compare thee to a summer's day, thou art more lovely and more temperate",
    "床前明月光,疑是地上霜,举头望明月",
]
END = "<|endoftext|>"


def byte_level(size: int, text: Iterable[str] = TEXT, specials: tuple[str, ...] = (END,)) -> FolderVocabulary:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(text, trainer)
    return vocabulary(tokenizer)


def sentencepiece_like(pieces: list[str]) -> FolderVocabulary:
    """A BPE with byte fallback and "▁" for spaces, whose merges build each piece letter by letter."""
    letters = sorted({letter for piece in pieces for letter in piece})
    names = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    merges = []
    for piece in pieces:
        for end in range(1, len(piece)):
            if piece[: end + 1] not in names:
                names.append(piece[: end + 1])
                merges.append((piece[:end], piece[end]))
    model = models.BPE({name: number for number, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    return vocabulary(tokenizer, end="</s>")


def vocabulary(tokenizer: Tokenizer, end: str = END, source_ids: np.ndarray | None = None) -> FolderVocabulary:
    special = frozenset(number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    return FolderVocabulary(tokenizer, special, tokenizer.token_to_id(end), "test", source_ids)


def pieces_of(row_map: RowMap, number: int) -> list[int]:
    start = int(row_map.counts[:number].sum())
    return [int(piece) for piece in row_map.pieces[start : start + int(row_map.counts[number])]]


def id_of(entries: FolderVocabulary, name: str) -> int:
    number = entries.tokenizer.token_to_id(name)
    assert number is not None
    return number


def names_of(entries: FolderVocabulary, pieces: list[int]) -> list[str]:
    return [str(entries.tokenizer.id_to_token(piece)) for piece in pieces]


def apply(row_map: RowMap, rows: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return row_map.apply(rows, 0.02, torch.Generator().manual_seed(seed))


def rows_for(parent: FolderVocabulary, channels: int = 3) -> torch.Tensor:
    return torch.randn(parent.size, channels, generator=torch.Generator().manual_seed(3))


def test_the_same_vocabulary_is_the_identity() -> None:
    parent = byte_level(400)
    row_map, rows = map_rows(byte_level(400), parent), rows_for(parent)
    assert torch.equal(apply(row_map, rows), rows)
    assert row_map.record() == {
        "relation": "the parent's own vocabulary", "entries": 400, "copied_percent": 100.0, "composed_percent": 0.0,
        "fresh_percent": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("with_map", [True, False])
def test_a_compact_vocabulary_copies_its_rows(tmp_path: Path, with_map: bool) -> None:
    state, end_of_text = train_bpe(TEXT * 3, 390)
    large = write_vocabulary(tmp_path / "large", state, end_of_text, "large", {})
    counts = np.arange(390) % 7
    state, source_ids = cut(state, counts, 330, end_of_text=end_of_text)
    child = write_vocabulary(tmp_path / "child", state, end_of_text, "child", {}, source_ids if with_map else None)
    parent = read(large.folder)
    assert parent.end_of_text == large.end_of_text
    row_map, rows = map_rows(child, parent), rows_for(parent)
    assert torch.equal(apply(row_map, rows), rows[source_ids])
    expected = "cut from the parent's vocabulary" if with_map else "a part of the parent's vocabulary"
    assert row_map.record()["relation"] == expected


def test_a_mapping_into_another_tokenizer_is_ignored() -> None:
    parent, child = byte_level(400), byte_level(300, TEXT[:1])
    misled = vocabulary(child.tokenizer, source_ids=np.arange(300)[::-1].copy())
    assert np.array_equal(map_rows(misled, parent).pieces, map_rows(child, parent).pieces)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6), st.integers(258, 330))
def test_pieces_spell_the_entry(text: list[str], size: int) -> None:
    """Entries of any byte-level vocabulary, even parts of characters, are spelled exactly by any other."""
    parent, child = byte_level(320), byte_level(size, text)
    row_map = map_rows(child, parent)
    letters = {number: name for name, number in parent.tokenizer.get_vocab().items()}
    for number in range(1, child.size):
        assert "".join(letters[piece] for piece in pieces_of(row_map, number)) == child.tokenizer.id_to_token(number)
    assert row_map.record()["fresh_percent"] == 0


def test_composed_rows_are_the_mean_of_the_parents_own_pieces() -> None:
    parent = byte_level(300)
    child = byte_level(420)
    row_map, rows = map_rows(child, parent), rows_for(parent)
    result = apply(row_map, rows)
    composed = [number for number in range(child.size) if row_map.counts[number] > 1]
    assert composed
    for number in composed:
        word = child.tokenizer.decode([number])
        if "�" not in word:
            ids = parent.tokenizer.encode(word).ids
            torch.testing.assert_close(result[number], rows[ids].mean(0))
    assert row_map.record()["relation"] == "another vocabulary"
    assert sum(row_map.record()[f"{kind}_percent"] for kind in ("copied", "composed", "fresh")) == pytest.approx(100)


def test_special_tokens_are_matched_by_name_then_role_or_are_fresh() -> None:
    parent = byte_level(300, specials=("<pad>", "</s>"))
    parent = vocabulary(parent.tokenizer, end="</s>")
    child = byte_level(300, specials=(END, "<pad>", "<new>"))
    row_map = map_rows(child, parent)
    assert [pieces_of(row_map, number) for number in range(3)] == [[1], [0], []]


def test_fresh_rows_are_drawn_from_the_seed() -> None:
    child = byte_level(300, specials=(END, *(f"<new {i}>" for i in range(20))))
    row_map, rows = map_rows(child, byte_level(300)), rows_for(byte_level(300), 400)
    first, again, other = apply(row_map, rows), apply(row_map, rows), apply(row_map, rows, seed=1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[1:21].std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(first[21:], other[21:])
    assert map_rows(child, None).record()["fresh_percent"] == 100


def test_byte_level_and_sentencepiece_entries_are_matched() -> None:
    parent = sentencepiece_like(["▁the", "▁cat", "sat", "今天"])
    child = byte_level(500)
    row_map = map_rows(child, parent)
    for entry, expected in (("Ġthe", ["▁the"]), ("t", ["t"]), ("Ġ", ["▁"]), ("A", ["<0x41>"]), ("Ċ", ["<0x0A>"])):
        assert names_of(parent, pieces_of(row_map, id_of(child, entry))) == expected
    assert child.end_of_text is not None
    assert pieces_of(row_map, child.end_of_text) == [1]  # by role: "</s>"
    part = next(
        number for number in range(child.size) if "�" in child.tokenizer.decode([number]) and row_map.counts[number] > 1
    )
    assert all(name.startswith("<0x") for name in names_of(parent, pieces_of(row_map, part)))

    back = map_rows(parent, child)
    assert "".join(names_of(child, pieces_of(back, id_of(parent, "▁cat")))) == "Ġcat"
    assert pieces_of(back, id_of(parent, "<0x41>")) == [id_of(child, "A")]
    assert back.counts[0] == 0  # <unk> is special and has no counterpart


def test_a_byte_entry_of_the_same_tokenizer_keeps_its_own_row() -> None:
    parent = sentencepiece_like(["▁the", "A"])
    row_map, rows = map_rows(parent, parent), rows_for(parent)
    assert torch.equal(apply(row_map, rows), rows)


def test_added_tokens_that_are_not_special_are_text() -> None:
    parent, child = byte_level(300), byte_level(300)
    parent.tokenizer.add_tokens([AddedToken("你好", special=False)])
    child.tokenizer.add_tokens([AddedToken("你好", special=False), AddedToken("你好the", special=False)])
    row_map = map_rows(vocabulary(child.tokenizer), vocabulary(parent.tokenizer))
    assert pieces_of(row_map, 300) == [300]
    assert row_map.counts[301] > 1


def test_entries_beyond_the_parents_rows_are_not_used() -> None:
    parent, child = byte_level(400), byte_level(400)
    row_map = map_rows(child, parent, rows=350)
    assert row_map.pieces.max() < 350
    assert apply(row_map, rows_for(parent)[:350]).shape == (400, 3)


def test_half_precision_rows_stay_exact_when_copied() -> None:
    parent = byte_level(300)
    rows = rows_for(parent).to(torch.bfloat16)
    assert torch.equal(apply(map_rows(parent, parent), rows), rows)


def test_reading_a_folder(tmp_path: Path) -> None:
    assert FolderVocabulary.read(tmp_path) is None
    byte_level(300).tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert read(tmp_path).end_of_text is None
    write(tmp_path / "config.json", {"eos_token_id": [0, 2]})
    assert read(tmp_path).end_of_text == 0
    write(tmp_path / "tokenizer_config.json", {"eos_token": {"content": END}})
    found = read(tmp_path)
    assert (found.end_of_text, found.special_ids, found.size) == (0, frozenset({0}), 300)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        FolderVocabulary.read(tmp_path)


def read(folder: Path) -> FolderVocabulary:
    found = FolderVocabulary.read(folder)
    assert found is not None
    return found


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
