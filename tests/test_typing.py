"""The public names as type checkers see them: what is in tests/typing passes mypy --strict and pyright as it stands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKERS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "tests/typing"],
    "pyright": [sys.executable, "-m", "pyright", "tests/typing"],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_the_public_names_have_the_types_they_promise(checker, monkeypatch):
    if shutil.which(checker, path=str(Path(sys.executable).parent)) is None:
        pytest.skip(f"{checker} is not installed")
    monkeypatch.setenv("PYRIGHT_PYTHON_IGNORE_WARNINGS", "1")

    told = subprocess.run(CHECKERS[checker], check=False, cwd=ROOT, capture_output=True, text=True)

    assert 0 == told.returncode, told.stdout + told.stderr
