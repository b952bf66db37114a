"""Installation: the wheel, the pins, and the targets of the Makefile."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("scale", "data", "tokenizer", "arch", "init", "optimizer", "rounds", "train", "evaluate", "tracking")
TARGETS = ("help", "setup", "demo", "test", "lint", "report", "ui", "bench", "paper", "clean")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run(command: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``, without settings of an outer make, Hydra or Python in its environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return subprocess.run(command, cwd=folder, env=kept | variables, capture_output=True, text=True, timeout=200, check=False)


# --- The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), str(ROOT)],
        folder,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content and console command, without dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    done = run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def shipped(folder: str) -> Iterator[str]:
    """Return the paths of files below ``folder`` in the checkout that belong in a wheel."""
    for file in (ROOT / folder).rglob("*"):
        path = file.relative_to(ROOT)
        if file.is_file() and "__pycache__" not in path.parts and not any(part.startswith(".") for part in path.parts):
            yield path.as_posix()


def test_wheel_holds_the_package_and_the_configuration_and_nothing_else(wheel: Path) -> None:
    expected = set(shipped("tinylm_ablate")) | set(shipped("hydra_plugins"))
    expected |= {f"tinylm_ablate/{path}" for folder in ("conf", "experiments") for path in shipped(folder)}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
        licenses = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    assert found == expected
    assert licenses
    assert {"tinylm_ablate/py.typed", "tinylm_ablate/conf/config.yaml", "tinylm_ablate/experiments/demo.yaml"} <= found
    assert any(re.fullmatch(r"tinylm_ablate/report/paper/\w+\.csv", name) for name in found)


def test_installed_wheel_finds_its_own_configuration(installed: Path, tmp_path: Path) -> None:
    code = "from tinylm_ablate import paths; print(paths.conf_dir()); print(paths.experiments_dir())"
    found = run([sys.executable, "-c", code], tmp_path, PYTHONPATH=str(installed))
    assert found.returncode == 0, found.stderr
    package = (installed / "tinylm_ablate").resolve()
    assert [Path(line) for line in found.stdout.split()] == [package / "conf", package / "experiments"]


@pytest.mark.parametrize("command", ["module", "console"])
def test_installed_wheel_lists_its_groups_in_an_empty_folder(installed: Path, tmp_path: Path, command: str) -> None:
    start = [sys.executable, "-m", "tinylm_ablate"] if command == "module" else [str(installed / "bin" / "tinylm-ablate")]
    shown = run([*start, "--help"], tmp_path, PYTHONPATH=str(installed))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    missing = [group for group in GROUPS if not re.search(rf"^ +{group} +\w", shown.stdout, flags=re.MULTILINE)]
    assert not missing, shown.stdout
    assert not list(tmp_path.iterdir()), "--help leaves nothing behind"


def test_installed_wheel_composes_a_run_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    shown = run([sys.executable, "-m", "tinylm_ablate", "--cfg", "job", "scale=s8"], tmp_path, PYTHONPATH=str(installed))
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert re.search(r"^ +factor: 8$", shown.stdout, flags=re.MULTILINE), shown.stdout


def test_checkout_uses_its_own_folders() -> None:
    from tinylm_ablate import paths

    assert paths.conf_dir() == ROOT / "conf"
    assert paths.experiments_dir() == ROOT / "experiments"


# --- The pins


def declared() -> list[Requirement]:
    """Return the requirements in pyproject.toml, including extras, without this project itself."""
    with (ROOT / "pyproject.toml").open("rb") as stream:
        content = tomllib.load(stream)["project"]
    texts = [*content["dependencies"], *(text for extra in content["optional-dependencies"].values() for text in extra)]
    requirements = [Requirement(text) for text in texts]
    return [requirement for requirement in requirements if canonicalize_name(requirement.name) != content["name"]]


def pins() -> dict[str, str]:
    """Return canonical name -> version of every line in constraints.txt."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    found: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line)
        assert match, f"{line!r} is not a plain pin (a build such as +cpu is the user's choice)"
        name = canonicalize_name(match[1])
        assert name not in found, f"{name} is pinned twice"
        found[name] = match[2]
    return found


def test_every_declared_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    wrong = [
        str(requirement)
        for requirement in declared()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert not wrong
    assert next(iter(pinned)) == "torch"


def test_everything_that_the_dependencies_need_is_pinned() -> None:
    """Follow the installed metadata from pyproject.toml, except for what torch's own builds need."""
    pinned, reached = pins(), set()
    waiting = list(declared())
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in reached or re.match(r"nvidia-|cuda-|triton", key[0]):
            continue
        try:
            needs = importlib.metadata.requires(requirement.name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        reached.add(key)
        for text in needs:
            need = Requirement(text)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
                waiting.append(need)
    missing = {name for name, _ in reached} - set(pinned)
    assert not missing


def test_every_imported_package_is_declared() -> None:
    names = {canonicalize_name(requirement.name) for requirement in declared()}
    distributions = importlib.metadata.packages_distributions()
    imported: set[str] = set()
    for path in (ROOT / "tinylm_ablate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
                imported.add(node.module.split(".")[0])
    outside = imported - set(sys.stdlib_module_names) - {"tinylm_ablate", "hydra_plugins"}
    assert len(outside) > 20
    # An optional extra, whose module has another name, and Triton, which belongs to PyTorch's builds for a GPU.
    special = {"llama_cpp": ["llama-cpp-python"], "triton": ["torch"]}
    known = {
        name: {canonicalize_name(found) for found in special.get(name) or distributions.get(name, [name])} for name in outside
    }
    assert not {name for name, candidates in known.items() if not candidates & names}


# --- The Makefile


@pytest.fixture
def workshop(tmp_path: Path) -> Path:
    """The Makefile and an environment whose ``python`` records its arguments.

    This python fails on a grid with data=broken, but plans it.
    """
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "python $*"\ncase "$*" in *mode=plan*) ;; *" -m +"*=broken*) exit 1;; esac\n')
    python.chmod(0o755)
    (tmp_path / "venv" / ".installed").touch()
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(["make", "VENV=venv", *arguments], folder)


@needs_make
def test_help_is_the_default_and_lists_every_target() -> None:
    shown = run(["make"], ROOT)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == run(["make", "help"], ROOT).stdout
    listed = set(re.findall(r"^ +make (\S+) +\S", shown.stdout, flags=re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    assert listed == set(phony[1].split())
    assert listed >= set(TARGETS)


@needs_make
def test_paper_is_planned_then_run_as_one_grid_and_reported(workshop: Path) -> None:
    asked = ("SCALE=s8", "SEEDS=3", "TOKENS_PER_PARAMETER=0.5", "RUNS=elsewhere", "ARGS=data=broken")
    settings = "scale=s8 grid.workers=auto train.tokens_per_parameter=0.5 runs_dir=elsewhere data=broken"
    done = make(workshop, "paper", *asked)
    assert done.returncode != 0 and "some runs failed; the same command does what is missing" in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("python ")] == [
        f"python -m tinylm_ablate -m +experiments=paper seeds=3 {settings} mode=plan",
        f"python -m tinylm_ablate +experiments=figure02_coverage {settings}",
        f"python -m tinylm_ablate -m +experiments=paper seeds=3 {settings}",
        "python -m tinylm_ablate.report --runs-dir elsewhere",
    ]
    done = make(workshop, "paper")
    assert done.returncode == 0, done.stderr
    assert "tokens_per_parameter" not in done.stdout, "without a budget the scale's own is taken"
    assert done.stdout.rstrip().endswith("python -m tinylm_ablate.report --runs-dir runs")


@needs_make
def test_targets_without_work_are_reported(workshop: Path) -> None:
    done = make(workshop, "bench")
    assert done.returncode != 0
    assert "nothing was measured" in done.stderr


@needs_make
def test_clean_keeps_runs_and_environment(workshop: Path) -> None:
    for folder in ("build", ".mypy_cache", "package/__pycache__", "runs/1", "venv/lib/__pycache__"):
        (workshop / folder).mkdir(parents=True)
    assert make(workshop, "clean").returncode == 0
    gone = ("build", ".mypy_cache", "package/__pycache__")
    assert not [folder for folder in gone if (workshop / folder).exists()]
    assert (workshop / "runs" / "1").is_dir()
    assert (workshop / "venv" / "lib" / "__pycache__").is_dir()
    assert make(workshop, "clean-runs").returncode == 0
    assert not (workshop / "runs").exists()


@needs_make
def test_setup_is_done_again_only_when_its_inputs_change(workshop: Path) -> None:
    assert "pip install" not in make(workshop, "-n", "setup").stdout
    os.utime(workshop / "constraints.txt", (2**32, 2**32))
    planned = make(workshop, "-n", "setup").stdout
    assert planned.index("'^torch=='") < planned.index("-e '.[dev]'"), "torch is installed first"


@needs_make
def test_setup_without_python_reports_what_is_needed(workshop: Path) -> None:
    (workshop / "venv" / ".installed").unlink()
    done = make(workshop, "setup", "PYTHON=")
    assert done.returncode != 0
    assert "needs Python 3.11" in done.stderr
