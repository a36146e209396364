"""The notebooks of docs/ run, here in miniature, and hold the outputs and pictures of a complete run.

`jupyter execute --inplace docs/notebooks/*.ipynb` makes these anew, after a change of the weights, say.
"""

from pathlib import Path

import pytest

from Testing.waiting import PATIENCE_S

nbformat = pytest.importorskip("nbformat", reason="pip install 'mass-core[docs]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'mass-core[docs]'")

FOLDER = Path(__file__).resolve().parents[2] / "docs/notebooks"
SMALLER = {
    "first_segmentation": "subjects, labels = (1,), (1, 4)\nsize_zyx, spacing_mm = (24, 32, 36), (12.0, 9.6, 9.6)",
    "pretrain_finetune_evaluate": "people = 8\nsize_zyx, spacing_mm = (24, 32, 36), (12.0, 9.6, 9.6)\n"
    'pretraining = "--recipe smoke --set steps=2 batch_size=2 model.channels=8,32 model.stages=1 preprocess.window_zyx=16,16,16 '
    'preprocess.spacing_zyx=12,12,12"\n'
    'finetuning = "--recipe smoke --epochs 1 --set batch_size=2 steps_per_epoch=1 validate_cases=1"\n'
    'methods = "in-context"',
}
"""What is run after the cell with the tag `parameters`, by notebook."""
MOST_BYTES = 300_000


def notebook(name: str) -> "nbformat.NotebookNode":
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def pictures(made: "nbformat.NotebookNode") -> list[int]:
    """Numbers of the code cells that show one."""
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    return [number for number, cell in enumerate(cells) if any("image/png" in output.get("data", {}) for output in cell.outputs)]


def test_these_are_all() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALLER)


@pytest.mark.parametrize("name", SMALLER)
def test_the_stored_outputs_are_those_of_a_complete_run(name: str) -> None:
    cells = [cell for cell in notebook(name).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [output for cell in cells for output in cell.outputs if output.output_type == "error" or output.get("name") == "stderr"] == []
    assert len(pictures(notebook(name))) >= 2
    assert (FOLDER / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    made = notebook(name)
    (place,) = [number for number, cell in enumerate(made.cells) if "parameters" in cell.metadata.get("tags", ())]
    made.cells[place].source += f"\n{SMALLER[name]}"
    nbclient.NotebookClient(made, timeout=PATIENCE_S, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert pictures(made) == pictures(notebook(name))
