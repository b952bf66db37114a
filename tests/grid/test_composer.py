"""The composer of cells gives the same configs as Hydra."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from tinylm_ablate.config import Config
from tinylm_ablate.grid.compose import COMPOSITION_ERRORS, Composer, register, typed
from tinylm_ablate.paths import conf_dir

CELLS = [
    [],
    ["seed=3"],
    ["arch.depth=29", "init=inherit", "arch.width=4096/s", "init.criterion=l2"],
    ["init.criterion=l1", "arch.depth=29", "init=inherit"],
    ["+experiments=table05_inheritance", "init=inherit", "init.criterion=learned", "scale=s16"],
    ["+experiments=table05_inheritance", "init=inherit", "init.criterion=taylor", "scale=s16", "train.batch_tokens=512"],
    ["optimizer=lion", "optimizer.scaling.base_lr=1e-4", "++grid.arms={a:['arch.depth=2'],b:[]}"],
    ["++grid.arms={}", "scale.factor=24", "optimizer=lion"],
    ["data.path='a b, c'", "init.std=${scale.init_std}", "train.tokens=${times:3,7}"],
]


def test_cells_equal_hydras_in_any_order() -> None:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        expected = [typed(hydra_compose("config", overrides=cell)) for cell in CELLS]
        master = hydra_compose("config", return_hydra_config=True)
        composer = Composer(GlobalHydra.instance().config_loader(), master)
        for _ in range(2):
            found: list[Config] = [typed(composer(cell)) for cell in CELLS]
            assert found == expected
            assert [composer.typed(cell) for cell in CELLS] == expected


def test_a_cell_is_independent_of_others_and_of_order() -> None:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        master = hydra_compose("config", return_hydra_config=True)
        composer = Composer(GlobalHydra.instance().config_loader(), master)
        shared = ["init=inherit", "data.languages=[en]"]
        axes = (["seed=1", "seed=2"], ["arch.depth=9", "arch.depth=20"], ["train.batch_tokens=4096", "train.batch_multiple=2"])
        cells = [[*shared, *cell] for cell in itertools.product(*axes)]
        found = [composer.typed(cell) for cell in cells]
        assert found == [typed(hydra_compose("config", overrides=cell)) for cell in cells]
        assert [composer.typed([*shared, *cell[:1:-1]]) for cell in cells] == found
        before = composer.typed(cells[0])
        found[0].arch.depth, found[0].train.threads = 99, 7
        found[0].data.languages.append("zh")
        assert composer.typed(cells[0]) == before != found[0] and found[1].data.languages == ["en"]
        with pytest.raises(COMPOSITION_ERRORS):
            composer.typed([*shared, "arch.depht=3"])
        assert composer.typed(["seed=1", "seed=2"]).seed == 2


def test_dependent_keys_change_even_if_the_first_value_is_the_default() -> None:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composer = Composer(GlobalHydra.instance().config_loader(), hydra_compose("config", return_hydra_config=True))
        found = [composer.typed([f"train.batch_multiple={times}"]).train.batch_tokens for times in (1, 2, 4)]
        assert found == [2048, 4096, 8192]
        followed = "train.batch_tokens=${train.context_length}"
        found = [composer.typed([followed, f"train.context_length={length}"]).train.batch_tokens for length in (256, 64, 128)]
        assert found == [256, 64, 128]


def test_cells_with_the_choices_of_the_multirun_are_not_composed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    shared = ["init=inherit", "data.languages=[en]", "train.batch_multiple=2", "arch.width=4096/s"]
    cells = [[*shared, "seeds=null", f"arch.depth={depth}", *more] for depth in (9, 20) for more in ([], ["arch.width=32"])]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        master = hydra.compose_config("config", [*shared, "seeds=2", "arch.depth=9,20"], run_mode=RunMode.MULTIRUN)
        composer = Composer(hydra.config_loader, master)
        expected = [typed(hydra_compose("config", overrides=cell)) for cell in cells]
        other = [typed(hydra_compose("config", overrides=[*cells[0], "optimizer=lion"]))]
        assert [composer.typed([*cells[0], "optimizer=lion"])] == other
        monkeypatch.setattr(type(composer.loader), "load_sweep_config", None)
        assert [composer.typed(cell) for cell in cells] == expected == [typed(composer(cell)) for cell in cells]


def test_a_file_is_read_once_until_it_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own, read, load = tmp_path / "conf" / "arch" / "mine.yaml", set[str](), OmegaConf.load
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [llama, _self_]\ndepth: 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(OmegaConf, "load", lambda file: (read.add(Path(file.name).name), load(file))[1])
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        assert typed(hydra_compose("config", overrides=["arch=mine"])).arch.depth == 7 and "mine.yaml" in read
        read.clear()
        assert typed(hydra_compose("config", overrides=["arch=mine", "init=inherit"])).arch.depth == 7
        assert read <= {"inherit.yaml"}  # another test may have read it
        read.clear()
        own.write_text("defaults: [llama, _self_]\ndepth: 11\n")
        assert typed(hydra_compose("config", overrides=["arch=mine", "init=inherit"])).arch.depth == 11
        assert read == {"mine.yaml"}


@pytest.mark.parametrize("wrong", ["arch.depht=3", "init=nothing", "~arch.nothing", "arch.depth=1,2"])
def test_whatever_hydra_refuses_is_refused(wrong: str) -> None:
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composer = Composer(GlobalHydra.instance().config_loader(), hydra_compose("config", return_hydra_config=True))
        with pytest.raises(COMPOSITION_ERRORS) as expected:
            hydra_compose("config", overrides=[wrong])
        with pytest.raises(COMPOSITION_ERRORS) as caught:
            composer([wrong])
    assert type(caught.value) is type(expected.value)
    assert str(caught.value).splitlines()[0] == str(expected.value).splitlines()[0]
