"""The config reference."""

from __future__ import annotations

from pathlib import Path

from tinylm_ablate.config import GROUPS, Config
from tinylm_ablate.config_values import walk
from tinylm_ablate.reference import reference

PAGE = Path(__file__).resolve().parents[1] / "docs" / "config.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run: make docs"


def test_every_setting_and_choice_is_on_the_page_and_explained() -> None:
    page = reference()
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for key, _, rule in walk(Config()):
        assert rule["help"], key
        assert rule["help"] in lines[key].replace("\\|", "|")
    for group in GROUPS:
        for path in (PAGE.parents[1] / "conf" / group).glob("*.yaml"):
            assert f"`{group}={path.stem}`" in page
