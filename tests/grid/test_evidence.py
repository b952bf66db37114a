"""From the files of a grid to evidence: labels, curves, and the requested seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tinylm_ablate.grid import sweeper
from tinylm_ablate.grid.cells import expand
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.parts import Part
from tinylm_ablate.grid.result_table import summary_table
from tinylm_ablate.science.claim_files import parse
from tinylm_ablate.science.evidence import Evidence, settings
from tinylm_ablate.science.seeds import seeds_wanted
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

BITS = "test/bits_per_byte/all"


@pytest.fixture
def part(tmp_path: Path) -> Part:
    """Three arms with three seeds of planted runs: the second is clearly better, the third may be."""
    base = compose([f"runs_dir={tmp_path}", "experiment.name=mine"])
    base.grid.arms = {"base": [], "clear": ["arch.depth=4"], "close": ["arch.depth=5"]}
    made = Part("", base, *expand(None, [], base.grid, 3))
    bits = {"base": 2.5, "clear": 2.3, "close": 2.48}
    for cell in made.cells:
        made.settled[cell] = run = settle(compose([f"runs_dir={tmp_path}", *cell.overrides]))
        noise = 0.02 if cell.values["arm"] == "close" else 0.0
        _plant(run, bits[cell.values["arm"]] + noise * (run.config.seed - 1))
    return made


def _plant(run: Settled, value: float) -> None:
    """Write the files of a finished run with given bits per byte."""
    offsets = np.random.default_rng(0).standard_normal(100)
    offsets -= offsets.mean()
    (run.folder / "measures").mkdir(parents=True)
    record = {
        "schema": 2, "identity": run.identity, "seed": run.config.seed, "tokens": run.tokens, "steps": run.steps,
        "config": {"arch": {"depth": run.shape.depth}, "scale": {"name": "s32"}}, "parameters": {"total": 1e6},
        "metrics": {"train/loss": 4.0}, "tokenizer": {"bytes_per_token": {"en": 3.0, "zh": 2.0}},
    }  # fmt: skip
    (run.folder / "metrics.json").write_text(json.dumps(record))
    rows = [{"tokens": n, "loss": 8 - 0.5 * math.log(n)} for n in range(1000, 100_001, 1000)]
    (run.folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, metrics in (
        ("bits_per_byte", {BITS: value, "test/bits_per_byte/en": value}),
        ("bigrams", {"test/bigrams/bits_per_byte/all": 2.9}),
    ):
        path = run.folder / "measures" / f"{name}.0123456789abcdef.json"
        path.write_text(json.dumps({"schema": 1, "settings": {}, "metrics": metrics}))
    documents = [
        {"split": "test", "language": "en", "document": f"d{i}", "nats": (value + own) * 1000 * math.log(2), "bytes": 1000}
        for i, own in enumerate(offsets)
    ]
    pd.DataFrame(documents).to_parquet(run.folder / "measures" / "bits_per_byte.0123456789abcdef.parquet")


def evidence(part: Part) -> Evidence:
    found = sweeper._evidence(part, sweeper._described(part))
    assert found is not None
    return found


def claim(**gates: Any) -> Any:
    content = {
        "title": "t", "source": "s", "experiment": "mine", "arms": {name: {"arm": name} for name in ("base", "clear", "close")},
        "tests": [
            {"kind": "ordering", "better": ["clear", "close"], "than": ["base"], "metric": BITS, "direction": "less"},
        ],
    }  # fmt: skip
    found, mistakes = parse("c", content | gates)
    assert not mistakes
    return found


ARMS = ["base", "clear", "close"]


def test_open_comparisons_want_more_seeds(part: Part) -> None:
    assert seeds_wanted(evidence(part), [claim(gates=["bigrams"])], ARMS) == {"base": 5, "clear": 3, "close": 5}


def test_the_arms_of_the_grid_get_the_seeds_that_are_wanted(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    part.base.seeds = "sequential"
    identity = sweeper._write_grid(part).path.stem
    monkeypatch.setattr("tinylm_ablate.science.claim_files.read_claims", lambda **_: [claim(gates=["bigrams"])])
    assert sweeper._more_seeds(part, identity, [])
    assert {arm: len(cells) for arm, cells in part.arms.items()} == {"arm=base": 5, "arm=clear": 3, "arm=close": 5}
    assert not sweeper._more_seeds(part, identity, []), "the seeds that are wanted were added, and none of them is finished"


def test_the_curve_gives_the_effect_of_more_tokens(part: Part) -> None:
    (setting,) = settings(evidence(part))
    curve = setting.evidence.curve_by_run[setting.identities("base")[0]]
    # The first point is the mean of the losses at 1,000 and 2,000 tokens.
    assert curve[0, 1] == pytest.approx((8 - 0.25 * math.log(2e6)) / math.log(2) / 2.5, rel=1e-4)


def test_untuned_arms_are_not_tested_and_tuned_ones_are(part: Part) -> None:
    part.tuned |= dict.fromkeys(part.arms, "interior")
    assert max(seeds_wanted(evidence(part), [claim(gates=["bigrams", "tuned"])], ARMS).values()) == 5
    part.tuned["arm=clear"] = "edge"
    assert max(seeds_wanted(evidence(part), [claim(gates=["bigrams", "tuned"])], ARMS).values()) == 3


def test_unfinished_runs_are_omitted(part: Part) -> None:
    (part.settled[part.cells[0]].folder / "metrics.json").unlink()
    (setting,) = settings(evidence(part))
    assert sorted(setting.by_seed("base", BITS)) == [1, 2]
    table = summary_table(evidence(part))
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:5]] == ["2", "3", "3"] and "2.5000" in table


def test_a_run_without_its_measure_is_not_counted_as_a_seed(part: Part) -> None:
    (measure,) = (part.settled[part.cells[0]].folder / "measures").glob("bits_per_byte.*.json")
    measure.write_text("garbage")
    assert [line.split("|")[2].strip() for line in summary_table(evidence(part)).splitlines()[2:5]] == ["2", "3", "3"]


def test_measures_of_other_grids_do_not_separate_runs(part: Part) -> None:
    """A shared run may have more measures than other runs, and bigrams are counted on each run's own tokens."""
    for number, cell in enumerate(part.cells[:3]):
        folder = part.settled[cell].folder / "measures"
        speed = {"schema": 1, "settings": {"machine": f"m{number // 2}"}, "metrics": {"decode/tokens_per_second": 5.0}}
        (folder / "decoding_speed.0123456789abcdef.json").write_text(json.dumps(speed))
        bigrams = json.loads((folder / "bigrams.0123456789abcdef.json").read_text())
        (folder / "bigrams.0123456789abcdef.json").write_text(json.dumps(bigrams | {"settings": {"tokens": number}}))
    (setting,) = settings(evidence(part))
    assert len(setting.arms) == 3
    # Speeds on another machine than most are not part of this comparison.
    assert len(setting.by_seed("base", "decode/tokens_per_second")) == 2


def test_of_very_many_arms_the_best_are_shown_and_the_table_says_so() -> None:
    arms = [f"a{number}" for number in range(100)]
    runs = pd.DataFrame({"identity": arms, "arm": arms, "key": arms, "seed": 0, BITS: [2 + 0.01 * n for n in range(100)]})
    lines = summary_table(Evidence("x", ["key"], runs)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:42]] == arms[:40]
    assert lines[43].startswith("The best 40 of 100 arms")
