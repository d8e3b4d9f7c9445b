import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SUITE = Path(__file__).parent.parent
NOTEBOOK = SUITE / "docs" / "faces.ipynb"
SHOWN = {"coalesce_streams": True}  # of each line what its last carriage return left
PARTS = "*.py", "requirements.txt", "dcgan", "docs", "weights"


@pytest.fixture
def suite(tmp_path):
    """Copy what a clone has, without what runs left there."""
    for part in PARTS:
        for path in SUITE.glob(part):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, tmp_path / path.name)
    return tmp_path


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(suite):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(suite / "docs")}}  # where Jupyter opens it
    NotebookClient(notebook, timeout=600, resources=where, **SHOWN).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [kind for output in outputs for kind in output.get("data", ())]
    assert pictures.count("image/png") == 5
    assert pictures.count("image/gif") == 1
    texts = [output["text"] for output in outputs if output.output_type == "stream"]
    shown = "".join(texts).splitlines()
    bars = [line[:15] for line in shown if line.startswith("Epoch")]
    assert bars == ["Epoch 1/2: 100%", "Epoch 2/2: 100%"]
    assert "Epoch 2/2: 100%|███" in "".join(texts)  # not as into a file
    assert "MMD" in "".join(texts)
    assert "10 faces of 64 x 64 are in faces.png." in "".join(texts)


def test_the_notebook_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    assert len(notebook.cells) == 15
