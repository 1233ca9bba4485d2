"""What is promised to the last bit holds on any processor: the exact tests pass where other instructions are used."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_pkg.proof.rebuild import older_processor_env
from tests.conftest import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="imitated on x86-64 alone"),
]
FLAGS = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
EXACT = ("tests/portable/test_export.py", "tests/modelling", "tests/scoring/test_reading.py")
IGNORED = "--ignore=tests/modelling/test_bundling.py"  # whole bundles, whose graphs the other tests compare


@pytest.mark.parametrize(
    "processor",
    [
        pytest.param(older_processor_env(), id="of 2011"),
        pytest.param(
            {"OPENBLAS_CORETYPE": "SapphireRapids"},
            marks=pytest.mark.skipif("avx512_bf16" not in FLAGS, reason="its kernels need AVX-512"),
            id="Sapphire Rapids",
        ),
    ],
)
def test_exact_tests_pass_on_another_processor(processor: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *EXACT, IGNORED]

    done = subprocess.run(command, cwd=ROOT, env=os.environ | processor, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-3000:]
