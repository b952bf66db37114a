"""The files of claims: ours are sound, a user's are checked and used."""

from __future__ import annotations

import pytest

from tinylm_ablate.errors import UserError
from tinylm_ablate.paths import experiments_dir
from tinylm_ablate.report.__main__ import main
from tinylm_ablate.report.claims import FOLDER, read_claims

GOOD = """
title: Deep beats shallow
source: my notes
experiment: table02_depth_width
arms:
  deep: {arch.depth: 40}
  shallow: {arch.depth: 9}
tests:
  - {kind: ordering, better: [deep], than: [shallow], metric: test/bits_per_byte/all, direction: less, smallest: 0.01}
"""


def test_ours_are_sound():
    claims = read_claims()
    assert {claim.name for claim in claims} == {path.stem for path in FOLDER.glob("*.yaml")}
    assert len(claims) >= 18
    for claim in claims:
        assert claim.title and claim.source and claim.tests


def test_each_of_ours_that_names_a_shipped_experiment_names_its_arms():
    """An arm that the experiment does not have would never get a verdict."""
    import yaml

    checked = 0
    for claim in read_claims():
        path = experiments_dir() / f"{claim.experiment}.yaml"
        if not path.is_file():
            continue
        content = yaml.safe_load(path.read_text())
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
    assert checked > 20


def test_a_users_claim_is_used(runs, tmp_path):
    runs.depths({40: [1.50, 1.52, 1.51], 9: [1.71, 1.72, 1.73]})
    folder = tmp_path / "claims"
    folder.mkdir()
    (folder / "mine.yaml").write_text(GOOD)
    results = tmp_path / "results"
    assert main(["--runs-dir", str(runs.folder), "--results", str(results), "--claims", str(folder)]) == 0
    for page in (results / "claims.md", results / "table02_depth_width.md", results / "index.html"):
        assert "Deep beats shallow" in page.read_text()
    row = next(line for line in (results / "claims.csv").read_text().splitlines() if line.startswith("mine,"))
    assert ",reproduced,deep over shallow," in row
    assert "reproduced" in (results / "README.md").read_text()


def test_a_users_claim_takes_the_place_of_ours(tmp_path):
    (tmp_path / "table02_depth.yaml").write_text(GOOD)
    (claim,) = [claim for claim in read_claims(tmp_path) if claim.name == "table02_depth"]
    assert claim.title == "Deep beats shallow"
    assert len(read_claims(tmp_path)) == len(read_claims())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("title: Deep beats shallow\n", "", "title is missing"),
        ("source: my notes", "source: my notes\ncolour: red", "colour is no key here"),
        ("kind: ordering", "kind: better", "kind is one of ordering, middle"),
        ("direction: less", "direction: down", "direction=down is one of less, more"),
        ("smallest: 0.01", "smallest: small", "smallest=small is a number"),
        (", smallest: 0.01", "", "smallest is missing"),
        ("than: [shallow]", "than: [flat]", "flat is one of the claim's arms: deep, shallow"),
        ("than: [shallow]", "than: shallow", "than=shallow is a list"),
        ("better: [deep], than: [shallow]", "better: [deep]", "has order with two arms or more"),
        ("kind: ordering, better: [deep], than: [shallow]", "kind: threshold, arm: deep", "has one of above and below"),
        (
            "kind: ordering, better: [deep], than: [shallow], metric: test/bits_per_byte/all, direction: less, smallest: 0.01",
            "kind: equivalence, arms: [deep, shallow], metric: x, direction: less, smallest: 0",
            "smallest=0 is over 0",
        ),
        ("metric: test/bits_per_byte/all", "metric: {deep: x}", "metric has no column for shallow"),
        ("  deep: {arch.depth: 40}", "  deep: 40", "gives each arm its overrides"),
        ("tests:", "paper: {table: table99, key: a, column: b}\ntests:", "paper.table=table99 is one of"),
        ("tests:", "paper: {table: table01_tokenizer, key: a, column: average}\ntests:", "paper.key=a is one of vocab_size"),
        (
            "tests:",
            "paper: {table: table02_depth_width, key: depth, column: average, rows: {deep: 41}}\ntests:",
            "paper.rows.deep=41 is one of 40, 30",
        ),
        ("tests:", "tests: [", "cannot be read"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, old, new, told):
    assert old in GOOD
    (tmp_path / "mine.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_claims(tmp_path)
    assert "mine.yaml" in str(caught.value) and told in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("title: x\n")
    assert main(["--runs-dir", str(tmp_path), "--results", str(tmp_path / "r"), "--claims", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("experiment is missing") == 2 and error.count("tests is missing") == 2
    with pytest.raises(UserError, match="is no folder"):
        read_claims(tmp_path / "none")


def test_the_first_and_the_last_layer_are_held_against_those_between(runs, tmp_path):
    import pandas as pd

    cells = {}
    for arm in ("20_layers", "40_layers"):
        for seed in range(3):
            identity = runs.add(f"{arm}-{seed}", seed, 1.5)
            bits = [5.0 + seed / 100, 2.0, 2.2, 2.1 + seed / 50, 3.0]
            rows = [(1, first, value, value, 0.3) for first, value in enumerate(bits)] + [(0, 0, 1.5, 1.5, 0.3)]
            frame = pd.DataFrame(rows, columns=["skipped", "first", "loss", "bits_per_byte", "cloze"])
            frame.to_parquet(runs.folder / identity / "layer_skip.parquet")
            cells[identity] = {"arm": arm, "seed": seed}
    runs.grid("figure05_layer_skip", cells, figures=["layer_skip"])
    assert main(["--runs-dir", str(runs.folder), "--results", str(tmp_path / "results")]) == 0
    rows = [line for line in (tmp_path / "results" / "claims.csv").read_text().splitlines() if line.startswith("figure05")]
    assert len(rows) == 4 and all(",reproduced," in row for row in rows)
    # The first layer costs 5.01 in the mean, those between 2.1 and two thirds of a hundredth more.
    assert float(rows[0].split(",")[8]) == pytest.approx(5.01 - (2.0 + 2.2 + 2.12) / 3)
