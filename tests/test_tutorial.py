"""docs/tutorial.ipynb runs from top to bottom and is stored with its outputs."""

import subprocess
import sys

import pytest
from support import ROOT

nbformat = pytest.importorskip("nbformat", reason="needs the extra: pip install -e '.[dev]'")
pytest.importorskip("nbclient", reason="needs the extra: pip install -e '.[dev]'")
pytest.importorskip("ipykernel", reason="needs the extra: pip install -e '.[dev]'")
NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom():
    before = NOTEBOOK.read_bytes()
    command = [sys.executable, str(ROOT / "docs" / "run_tutorial.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert NOTEBOOK.read_bytes() == before


def test_the_tutorial_is_stored_with_its_outputs_in_order():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    images = [output for cell in cells for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(images) >= 5
    assert NOTEBOOK.stat().st_size < 1_000_000
