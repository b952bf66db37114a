"""Files of claims: the shipped ones are valid, and every mistake in a user's file is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tinylm_ablate.config_values import walk
from tinylm_ablate.errors import UserError
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.paths import conf_dir, experiments_dir
from tinylm_ablate.science.claim_files import FOLDER, parse, read_claims

ORDERING = {
    "kind": "ordering",
    "better": ["deep"],
    "than": ["shallow"],
    "metric": "test/bits_per_byte/all",
    "direction": "less",
}

GOOD = {
    "title": "Deep beats shallow", "source": "my notes", "experiment": "table02_depth_width",
    "arms": {"deep": {"arch.depth": 40}, "shallow": {"arch.depth": 9}},
    "tests": [ORDERING],
}  # fmt: skip

PAPER = Path(__file__).parents[2] / "tinylm_ablate" / "report" / "paper"


def keys() -> set[str]:
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    return {"arm", *groups, *(key for key, *_ in walk(compose([])))}


def tables() -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path, dtype=str, keep_default_na=False) for path in PAPER.glob("*.csv")}


def test_the_shipped_claims_are_sound_and_name_known_keys() -> None:
    claims = read_claims(None, keys(), tables())
    assert {claim.name for claim in claims} == {path.stem for path in FOLDER.glob("*.yaml")}
    assert sum(not claim.ours for claim in claims) >= 34
    for claim in claims:
        assert claim.title and claim.source and claim.tests
        assert claim.ours == claim.source.startswith("ours")


def test_each_arm_of_a_shipped_claim_is_an_arm_of_its_experiment() -> None:
    checked = 0
    for claim in read_claims():
        content = yaml.safe_load((experiments_dir() / f"{claim.experiment}.yaml").read_text())
        axes = {
            key: [value.strip() for value in str(values).split(",")]
            for key, values in content.get("hydra", {}).get("sweeper", {}).get("params", {}).items()
        }
        axes["arm"] = list(content.get("grid", {}).get("arms", {}))
        for arm in claim.arms.values():
            for key, value in arm.items():
                known = [float(v) if v.replace(".", "").isdecimal() else v for v in axes[key]]
                assert (float(value) if value.replace(".", "").isdecimal() else value) in known, (claim.name, key, value)
                checked += 1
    assert checked > 60


def test_the_papers_own_effects_point_where_its_claims_do() -> None:
    """An effect of the wrong sign would mean that a claim or a printed number was misread."""
    checked = 0
    for claim in read_claims(None, None, tables()):
        for test in claim.tests:
            for first, others in test.comparisons:
                effect = claim.paper_effect(test, first, others)
                if effect is not None and test.kind == "ordering":
                    assert effect > 0, (claim.name, first, others)
                    checked += 1
    assert checked >= 30


COMMON = {"metric": "m", "direction": "less"}


@pytest.mark.parametrize(
    ("change", "mistake"),
    [
        (
            {"arms": {"deep": {"arch.dept": 40}, "shallow": {"arch.depth": 9}}},
            "arms.deep.arch.dept is not a configuration key; the closest is arch.depth",
        ),
        ({"arms": {"deep": {"arch.depth": "forty"}}}, "arms.deep.arch.depth=forty must be a whole number at least 1"),
        ({"arms": {"deep": {"init": "inhert"}}}, "arms.deep.init=inhert: no such choice; did you mean inherit?"),
        ({"title": None, "color": 1}, "color is not a key here"),
        ({"tests": []}, "tests must be a list of at least one test"),
        ({"gates": ["bigram"]}, "must be a list of some of bigrams, steps, tuned"),
        ({"reference": "wide"}, "reference=wide must be one of the claim's arms: deep, shallow"),
        ({"ours": "yes please"}, "ours=yes please must be true or false"),
        ({"paper": {"table": "table99", "key": "a", "column": "b"}}, "paper.table=table99 must be one of"),
        ({"tests": [{"kind": "guess"}]}, "tests[0].kind must be one of ordering"),
        ({"tests": [ORDERING | {"margin": -1}]}, "tests[0].margin=-1 must be a number of at least 0, or tokens"),
        ({"tests": [ORDERING | {"than": ["wide"]}]}, "tests[0]: wide must be one of the claim's arms"),
        ({"tests": [ORDERING | {"direction": "up"}]}, "direction=up must be one of less, more"),
        ({"tests": [ORDERING | {"metric": "along/half/test/bits_per_byte/all"}]}, "must be along/SHARE/METRIC with a share"),
        ({"tests": [ORDERING | {"relative": True}]}, "it has no meaning in tokens"),
        ({"tests": [{"kind": "equivalence", "arms": ["deep"], **COMMON}]}, "must have at least two arms"),
        ({"tests": [{"kind": "rule", "conditions": {"share": {"under": 2}}, **COMMON}]}, "must be {above: NUMBER}"),
        ({"tests": [{"kind": "threshold", "arm": "deep", **COMMON, "margin": 0}]}, "must have one of above and below"),
        ({"tests": [{"kind": "correlation", "column": "c", "sign": 2, "margin": 0.1, **COMMON}]}, "sign=2 must be -1, 0 or 1"),
    ],
)  # fmt: skip
def test_mistakes_are_named(change: dict[str, Any], mistake: str) -> None:
    claim, found = parse("mine", GOOD | change, keys(), tables())
    assert claim is None
    assert any(mistake in own for own in found), found


def test_arms_take_short_names_as_the_command_line_does() -> None:
    claim, mistakes = parse("mine", GOOD | {"arms": {"deep": {"lr": 0.01}, "shallow": {"lr": 0.001}}}, keys(), tables())
    assert mistakes == [] and claim is not None
    assert claim.arms["deep"] == {"optimizer.scaling.base_lr": "0.01"}


def test_all_mistakes_of_all_files_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump({**GOOD, "title": None, "source": None, "color": 1, "tests": 3}))
    (tmp_path / "two.yaml").write_text("[unclosed")
    with pytest.raises(UserError) as error:
        read_claims(tmp_path)
    assert all(word in str(error.value) for word in ("one.yaml", "color", "tests must be", "two.yaml", "cannot be read"))
    with pytest.raises(UserError, match="is not a folder"):
        read_claims(tmp_path / "none")


def test_a_users_claim_replaces_a_shipped_one_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "table02_depth.yaml").write_text(yaml.safe_dump(GOOD))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    found = {claim.name: claim for claim in read_claims(tmp_path)}
    assert found["table02_depth"].source == found["mine"].source == "my notes"
    assert len(found) == len(read_claims()) + 1
