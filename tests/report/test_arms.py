from __future__ import annotations

import json

import pytest

from tinylm_ablate.report import read_grids, read_records
from tinylm_ablate.report.arms import sections
from tinylm_ablate.report.compare import compare, written
from tinylm_ablate.report.measures import Measure, count

BITS = Measure("test/bits_per_byte/all", "bits/byte all", "bits", -1)
CLOZE = Measure("test/cloze/all", "cloze all %", "share", 1)


def found(runs):
    return sections(read_grids(runs.folder), read_records(runs.folder))


def texts(section, measure=BITS):
    results = compare(section.arms, measure)
    return [
        written(result, measure, len(arm.runs), section.seeds > 1) for result, arm in zip(results, section.arms, strict=True)
    ]


def test_seeds_of_one_place_are_one_arm(runs):
    runs.depths({40: [1.0, 1.2], 20: [2.0, 2.4]})
    (section,) = found(runs)
    assert section.label == "" and section.axis == ["arch.depth"] and section.seeds == 2
    assert [arm.place for arm in section.arms] == [{"arch.depth": "40"}, {"arch.depth": "20"}]
    assert section.arms[1].by_seed("test/bits_per_byte/all") == {0: 2.0, 1: 2.4}


def test_more_seeds_and_more_arms_of_the_same_experiment_join(runs):
    runs.depths({40: [1.0, 1.2], 20: [2.0, 2.4]})
    more = {
        "table02_depth_width-40-0": {"arch.depth": 40, "seed": 0},  # in both grids
        runs.add("third", 2, 1.1, depth=40): {"arch.depth": 40, "seed": 2},
        runs.add("other", 0, 3.0, depth=9): {"arch.depth": 9, "seed": 0},
    }
    runs.grid("table02_depth_width", more, file="table02_depth_width-later")
    (section,) = found(runs)
    assert {arm.place["arch.depth"]: sorted(arm.runs) for arm in section.arms} == {"40": [0, 1, 2], "20": [0, 1], "9": [0]}


def test_another_scale_is_another_section(runs):
    runs.depths({40: [1.0], 20: [2.0]})
    cells = {runs.add(f"s16-{depth}", 0, 1.5, depth=depth, scale="s16"): {"arch.depth": depth} for depth in (40, 20)}
    runs.grid("table02_depth_width", cells, file="later")
    assert [(section.label, len(section.arms)) for section in found(runs)] == [("scale.name=s16", 2), ("scale.name=s32", 2)]


def test_other_text_is_another_section_and_other_threads_are_not(runs):
    runs.depths({40: [1.0], 20: [2.0]})
    folder = runs.folder / "table02_depth_width-40-0"
    record = (folder / "metrics.json").read_text()
    for identity, old, new, expected in (
        ("threads", '"threads": "auto"', '"threads": 1', 1),
        ("text", '"fingerprint": "1234567890123456"', '"fingerprint": "6543210987654321"', 2),
    ):
        (runs.folder / identity).mkdir()
        changed = record.replace("table02_depth_width-40-0", identity).replace('"seed": 0', '"seed": 1').replace(old, new)
        assert new in changed
        (runs.folder / identity / "metrics.json").write_text(changed)
        path = runs.grid("table02_depth_width", {identity: {"arch.depth": 40, "seed": 1}}, file=identity)
        assert len(found(runs)) == expected
        path.unlink()


def test_what_follows_from_an_axis_does_not_split(runs):
    """A group as an axis changes many settings at once; arms change some that no axis names."""
    cells = {runs.add(name, 0, 1.0, scale=name): {"scale": name} for name in ("s16", "s32")}
    runs.grid("scales", cells)
    (section,) = found(runs)
    assert [arm.place for arm in section.arms] == [{"scale": "s16"}, {"scale": "s32"}]


def test_an_arm_without_runs_stays_in_the_table(runs):
    runs.depths({40: [1.0, 1.1]})
    runs.grid("table02_depth_width", {"table02_depth_width-40-0": {"arch.depth": 40}, "missing": {"arch.depth": 20}}, file="z")
    (section,) = found(runs)
    assert [len(arm.runs) for arm in section.arms] == [2, 0]
    assert texts(section) == ["1.0500 ± 0.0707", "–"]


def test_two_runs_of_one_seed_are_not_averaged(runs):
    runs.depths({40: [1.0]})
    runs.grid("table02_depth_width", {runs.add("again", 0, 9.0, depth=40): {"arch.depth": 40, "seed": 0}}, file="z")
    (section,) = found(runs)
    assert section.doubles == ["again"]
    assert texts(section) == ["1.0000"]


def test_one_seed_marks_nothing(runs):
    runs.depths({40: [1.0], 20: [2.0]})
    assert texts(found(runs)[0]) == ["1.0000", "2.0000"]


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        # Every other arm is clearly worse: the best is bold.
        ({40: [1.0, 1.1, 1.2], 20: [2.0, 2.11, 2.2]}, ["**1.1000 ± 0.1000**", "2.1033 ± 0.1002"]),
        # Within noise: marked, and nothing is bold.
        ({40: [1.0, 1.1, 1.2], 20: [1.3, 1.0, 1.3]}, ["1.1000 ± 0.1000", "1.2000 ± 0.1732 ≈"]),
        # One clear, one not: the clear one is not marked, and still nothing is bold.
        (
            {40: [1.0, 1.1, 1.2], 20: [1.3, 1.0, 1.3], 9: [3.0, 3.1, 3.2]},
            ["1.1000 ± 0.1000", "1.2000 ± 0.1732 ≈", "3.1000 ± 0.1000"],
        ),
        # An arm with one seed cannot be compared.
        ({40: [1.0, 1.1], 20: [5.0]}, ["1.0500 ± 0.0707", "5.0000 ≈"]),
        # The best over all seeds is the worse one over the common seeds.
        ({40: [2.0, 2.0, 0.5], 20: [1.9, 1.9]}, ["1.5000 ± 0.8660", "1.9000 ≈"]),
        # Equal in every seed.
        ({40: [1.0, 1.1], 20: [1.0, 1.1]}, ["1.0500 ± 0.0707", "1.0500 ± 0.0707 ≈"]),
    ],
)
def test_only_what_is_beyond_noise_stands_out(runs, bits, expected):
    runs.depths(bits)
    assert texts(found(runs)[0]) == expected


def test_more_is_better_for_the_cloze(runs):
    cells = {}
    for depth, shares in {40: [0.5, 0.51, 0.52], 20: [0.3, 0.31, 0.33]}.items():
        for seed, share in enumerate(shares):
            cells[runs.add(f"{depth}-{seed}", seed, 1.0, depth=depth, cloze=share)] = {"arch.depth": depth, "seed": seed}
    runs.grid("g", cells)
    assert texts(found(runs)[0], CLOZE) == ["**51.0 ± 1.0**", "31.3 ± 1.5"]


def test_counts_are_written_short():
    assert [count(value) for value in (0, 999, 1000, 499_712, 951_983_872, 1.6e12)] == [
        "0",
        "999",
        "1k",
        "499.7k",
        "952M",
        "1.6T",
    ]


def changed(runs, identity, **values):
    """Change settings of a run that is there already: dotted keys with "__" for the dot."""
    path = runs.folder / identity / "metrics.json"
    record = json.loads(path.read_text())
    for key, value in values.items():
        *path_, last = key.split("__")
        node = record
        for name in path_:
            node = node[name]
        if value is None:
            del node[last]
        else:
            node[last] = value
    path.write_text(json.dumps(record))


def budgets(runs):
    """One experiment at two budgets, the larger one run later and in two of three arms."""
    runs.depths({40: [1.0, 1.1], 20: [2.0, 2.2], 9: [2.5, 2.6]})
    cells = {}
    for depth, value in ((40, 1.9), (20, 1.5)):
        for seed in range(2):
            identity = runs.add(f"large-{depth}-{seed}", seed, value + seed / 1000, depth=depth, tokens=2_000_000)
            changed(runs, identity, config__train__tokens=2_000_000)
            cells[identity] = {"arch.depth": depth, "seed": seed}
    runs.grid("table02_depth_width", cells, file="0-first-by-name")


def test_the_largest_budget_comes_first_and_says_so(runs):
    budgets(runs)
    large, small = found(runs)
    assert (large.label, small.label) == ("train.tokens=2000000", "train.tokens=500000")
    assert large.question == small.question and not large.smaller and small.smaller
    cells = {runs.add(f"s16-{depth}", 0, 1.5, depth=depth, scale="s16"): {"arch.depth": depth} for depth in (40, 20)}
    runs.grid("table02_depth_width", cells, file="scale")
    assert [(section.label.partition(",")[0], section.smaller) for section in found(runs)] == [
        ("scale.name=s32", False), ("scale.name=s16", False), ("scale.name=s32", True)
    ]  # fmt: skip


def test_records_older_than_a_setting_are_not_set_apart(runs):
    """A setting that was added at rest is missing from older records; more seeds are run today and join them."""
    runs.depths({40: [1.0, 1.1], 20: [2.0, 2.2]})
    for identity in [path.name for path in runs.folder.glob("table02*")]:
        changed(runs, identity, config__init__rule=None, config__arch__tied=None)
    cells = {runs.add(f"later-{depth}", 2, 1.5, depth=depth): {"arch.depth": depth, "seed": 2} for depth in (40, 20)}
    runs.grid("table02_depth_width", cells, file="later")
    (section,) = found(runs)
    assert section.label == "" and section.seeds == 3
