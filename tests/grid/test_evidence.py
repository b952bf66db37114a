"""From a grid's cells to what the science package reads: labels, curves, and the seeds that it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinylm_ablate.grid import findings as module
from tinylm_ablate.grid.cells import expand
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.grid.findings import evidence
from tinylm_ablate.grid.parts import Part
from tinylm_ablate.science.claim import parse
from tinylm_ablate.science.evidence import settings
from tinylm_ablate.science.seeds import seeds_wanted
from tinylm_ablate.settle import settle
from tinylm_ablate.settled import Settled

BITS = "test/bits_per_byte/all"


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Part:
    """Three arms of three seeds, whose runs are planted: the second is clearly better, the third may be."""
    base = compose([f"runs_dir={tmp_path}", "experiment.name=mine"])
    base.grid.arms = {"base": [], "clear": ["arch.depth=4"], "close": ["arch.depth=5"]}
    made = Part("", base, [], *expand(None, [], base.grid, 3))
    bits = {"base": 2.5, "clear": 2.3, "close": 2.48}
    records: dict[str, dict[str, Any]] = {}
    documents: dict[str, list[dict[str, Any]]] = {}
    for cell in made.cells:
        made.settled[cell] = run = settle(compose([f"runs_dir={tmp_path}", *cell.overrides]))
        noise = 0.02 if cell.values["arm"] == "close" else 0.0
        value = bits[cell.values["arm"]] + noise * (run.config.seed - 1)
        metrics = {BITS: value, "test/bigrams/bits_per_byte/all": 2.9}
        records[run.identity] = {
            "parameters": {"total": 1e6}, "metrics": metrics, "vocabulary": {"bytes_per_token": {"en": 3.0, "zh": 2.0}},
        }  # fmt: skip
        offsets = np.random.default_rng(0).standard_normal(100)
        documents[run.identity] = [
            {"split": "test", "language": "en", "document": f"d{i}", "nats": (value + own) * 693.147, "bytes": 1000}
            for i, own in enumerate(offsets)
        ]
        run.folder.mkdir(parents=True)
        rows = [{"tokens": n, "loss": 8 - 0.5 * float(np.log(n))} for n in range(1000, 100_001, 1000)]
        (run.folder / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(module, "results", lambda run: records.get(run.identity))
    monkeypatch.setattr(module, "document_rows", lambda run: documents.get(run.identity, []))
    return made


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


def test_seeds_are_wanted_under_the_labels_of_the_grids_arms(part: Part) -> None:
    """A claim names arms by the word on the axis, the grid by all of its axes."""
    assert seeds_wanted(evidence(part), [claim(gates=["bigrams"])], list(part.arms)) == {
        "arm=base": 5,
        "arm=clear": 3,
        "arm=close": 5,
    }


def test_the_curve_tells_what_tokens_are_worth(part: Part) -> None:
    (setting,) = settings(evidence(part))
    curve = setting.evidence.curve_by_run[setting.identities("arm=base")[0]]
    assert curve[0, 1] == pytest.approx((8 - 0.5 * np.log(1000)) / np.log(2) / 2.5)


def test_untuned_arms_are_not_tested_and_tuned_ones_are(part: Part) -> None:
    labels = list(part.arms)
    part.tuned |= dict.fromkeys(labels, "interior")
    assert max(seeds_wanted(evidence(part), [claim(gates=["bigrams", "tuned"])], labels).values()) == 5
    part.tuned["arm=clear"] = "edge"
    assert max(seeds_wanted(evidence(part), [claim(gates=["bigrams", "tuned"])], labels).values()) == 3


def test_runs_that_are_not_finished_are_left_out(part: Part) -> None:
    gone: Settled = part.settled[part.cells[0]]
    del module.results(gone)["metrics"][BITS]  # type: ignore[index]
    (setting,) = settings(evidence(part))
    assert sorted(setting.by_seed(part.arm_of(part.cells[0]), BITS)) == [1, 2]
