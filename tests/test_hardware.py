"""Native arithmetic of machines, with Linux's reports on real CPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import TINY
from tinylm_ablate import settle as settling
from tinylm_ablate.grid.compose import compose
from tinylm_ablate.hardware import cpu_flags, fast_bf16


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma f16c sha_ni\n", False),  # AMD Zen 3
        ("flags\t\t: avx512f avx512bw avx512_vnni avx512_bf16\nflags\t\t: fpu\n", True),  # AMD Zen 4
        ("flags\t\t: avx512f avx512_vnni\n", False),  # Intel Cascade Lake
        ("flags\t\t: avx512f amx_bf16 amx_tile\n", True),  # Intel Sapphire Rapids
        ("Features\t: fp asimd i8mm bf16 sve\n", True),  # Arm Neoverse V1
        ("model name\t: something else\n", False),
    ],
)
def test_flags_of_processors(text: str, native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    flags = cpu_flags(path)
    monkeypatch.setattr("tinylm_ablate.hardware.cpu_flags", lambda: flags)
    assert fast_bf16("cpu") is native
    assert fast_bf16("mps") is False


def test_without_cpuinfo_there_is_no_bf16(tmp_path: Path) -> None:
    assert cpu_flags(tmp_path / "missing") == frozenset()


@pytest.mark.parametrize(("native", "width", "precision"), [(True, 32, "bf16"), (True, 16, "fp32"), (False, 32, "fp32")])
def test_auto_precision_depends_on_the_machine_and_the_width(
    native: bool, width: int, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "fast_bf16", lambda _: native)
    config = compose([*TINY, f"runs_dir={tmp_path}", f"arch.width={width}", "train.precision=auto"])
    assert settling.settle(config).precision == precision
