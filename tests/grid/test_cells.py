"""The cells of a grid."""

from __future__ import annotations

import pytest

from tinylm_ablate.config import GridConfig
from tinylm_ablate.errors import ConfigError
from tinylm_ablate.grid.cells import expand


def grid(**values: object) -> GridConfig:
    return GridConfig(**{"zip": [], "exclude": [], "arms": {}, "on_failure": "continue", **values})  # type: ignore[arg-type]


def names(*arguments: str, params: dict[str, object] | None = None, seeds: int | None = None, **settings: object) -> list[str]:
    return [cell.name for cell in expand(params, arguments, grid(**settings), seeds)[1]]


def test_every_combination() -> None:
    assert names("arch.depth=20,40", "init=inherit") == ["arch.depth=20", "arch.depth=40"]
    assert len(names("arch.depth=range(1,4)", "init=a,b", seeds=5)) == 30


def test_settings_shared_by_all_cells_are_separate() -> None:
    shared, cells = expand(None, ["arch.depth=20,40", "scale=s32", "seeds=2"], grid(), 2)
    assert shared == ["scale=s32"]
    assert cells[0].overrides == ("seeds=null", "arch.depth=20", "seed=0")


def test_the_command_line_replaces_an_axis_of_the_file() -> None:
    assert names("arch.depth=9", params={"arch.depth": "20,40"}) == ["the only cell"]
    assert names("arch.depth=9,10", params={"arch.depth": [20, 40]}) == ["arch.depth=9", "arch.depth=10"]


def test_zipped_axes_vary_together() -> None:
    cells = names("a=1,2", "b=3,4", "c=5,6", zip=[["a", "b"]])
    assert cells == ["c=5 a=1 b=3", "c=5 a=2 b=4", "c=6 a=1 b=3", "c=6 a=2 b=4"]


def test_arms_are_bundles_with_a_name() -> None:
    arms = {"base": ["init=internlm"], "inherit": ["init=inherit", "init.criterion=l1"]}
    _, cells = expand(None, ["x=1,2"], grid(arms=arms), None)
    assert [cell.name for cell in cells] == ["x=1 arm=base", "x=1 arm=inherit", "x=2 arm=base", "x=2 arm=inherit"]
    assert cells[1].overrides == ("seeds=null", "x=1", "init=inherit", "init.criterion=l1")


def test_excluded_cells_are_omitted() -> None:
    assert names("a=1,2", "b=3,4", exclude=["a=1 b=4"]) == ["a=1 b=3", "a=2 b=3", "a=2 b=4"]


def test_mistakes_of_a_grid_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        names("a=1,2", "b=3,4,5", "b=6", "seed=1,2", zip=[["a", "b"], ["a", "z"]], exclude=["q=1"], seeds=2)
    output = "\n".join(caught.value.mistakes)
    assert len(caught.value.mistakes) == 5, output
    for part in ("a has 2, b has 3", "z has only one value", "grid.exclude=[q=1]", "seeds=2", "b=6: b=3,4,5 is given too"):
        assert part in output
