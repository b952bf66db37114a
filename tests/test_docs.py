"""Commands and links in README and docs/."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tinylm_ablate.arguments import normalize
from tinylm_ablate.grid.diagnosis import diagnose
from tinylm_ablate.paths import experiments_dir

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")), *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """Return the arguments of every ``python -m tinylm_ablate`` on a page, with continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^\$ (?:python -m tinylm_ablate|tinylm-ablate)(?= |$)(.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with only texts; one for all pages, since settings are read once per folder."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "my_texts").mkdir()
    (folder / "my_texts" / "a.txt").write_text("A text.")
    (folder / "texts" / "wiki").mkdir(parents=True)
    (folder / "texts" / "wiki" / "a.txt").write_text("A text.")
    (folder / "texts" / "news.jsonl").write_text('{"text": "A text."}')
    return folder


@cache
def mistakes(overrides: tuple[str, ...], grid: bool) -> list[str]:
    """Return the mistakes in a command line, cached since pages share commands."""
    return diagnose(overrides, grid)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_understood(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    shipped = {path.stem for path in experiments_dir().glob("*.yaml")}
    for arguments in commands(page):
        grid = "-m" in arguments
        overrides = normalize([text for text in arguments if "=" in text and not text.startswith("hydra.")], grid).overrides
        own = [text for text in overrides if text.startswith("+experiments=") and text.split("=")[1] not in shipped]
        if any("_target_: mine." in text for text in overrides):  # the file in the tutorial, which tests/test_extension.py runs
            continue
        overrides = [text for text in overrides if text not in own and text != "optimizer=adamw,no_decay"]
        assert mistakes(tuple(overrides), grid) == [], shlex.join(arguments)


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra: docs)")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (extra: docs)")
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra: docs)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert all(f"tinylm_ablate.{name}" in api for name in ("api.run", "api.grid", "api.load_model", "report.notebook.compare"))


def test_every_page_is_in_the_navigation_once() -> None:
    pages = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
