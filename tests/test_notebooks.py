"""The tutorial: both languages are one notebook, its outputs are real, and it still runs."""

import json
import re
import shutil
from pathlib import Path

import h5py
import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from extract.engines import selection
from extract.engines.base import PACKAGES
from extract.vgg16 import weights
from tests.conftest import CHECKOUT, Arrays, write_keras_file

pytestmark = pytest.mark.long

FOLDER = CHECKOUT / "notebooks"
ENGLISH, PORTUGUESE = "transfer_learning.ipynb", "transfer_learning.pt-BR.ipynb"
BYTES = 2_000_000


def read(name: str) -> NotebookNode:
    return nbformat.read(FOLDER / name, as_version=4)


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook: NotebookNode) -> int:
    return sum("image/jpeg" in output.get("data", {}) for output in outputs(notebook))


def printed(notebook: NotebookNode) -> str:
    return "".join(output.get("text", "") for output in outputs(notebook))


def test_both_languages_are_one_notebook() -> None:
    english, portuguese = read(ENGLISH).cells, read(PORTUGUESE).cells
    assert [cell.id for cell in english] == [cell.id for cell in portuguese]
    for ours, theirs in zip(english, portuguese, strict=True):
        assert ours.cell_type == theirs.cell_type
        # Code is the same, and no text was left untranslated.
        assert (ours.source == theirs.source) == (ours.cell_type == "code"), ours.id


@pytest.mark.parametrize("name", [ENGLISH, PORTUGUESE])
def test_what_is_committed_was_run_from_top_to_bottom(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert pictures(notebook) >= 12
    assert (FOLDER / name).stat().st_size < BYTES
    # Paths are relative, so a reader sees the same ones.
    assert not re.search(r"(?<!\S)/\w", printed(notebook))


def test_a_shortened_notebook_runs(tmp_path: Path, house: Path, vgg16_arrays: Arrays) -> None:
    # What VGG16 has seen is there already; the notebook shows it the photos in two wrong ways.
    shutil.copytree(house / "features/cache", tmp_path / "features/cache")
    kept = tmp_path / "features/cache/vgg16.h5"
    write_keras_file(kept, vgg16_arrays, kernel="{layer}/kernel", bias="{layer}/bias")
    with h5py.File(kept, "a") as file:
        file.attrs["origin"], file.attrs["digest"] = "random", weights.digest(vgg16_arrays)
    # As if an engine had been compared with Keras on this machine: other tests do that themselves.
    check = selection.Check(difference=1e-6, speed=10.0)._asdict()
    parts = [(name, part) for name in PACKAGES for part in ("", "pairs", "block4_pool")]
    checks = {selection._key(*part): check for part in parts}
    (folder,) = (tmp_path / "features/cache").glob(f"{'?' * 64}")
    (folder / selection.RECORD).write_text(json.dumps(checks))
    for path in sorted((house / "pets").rglob("00[0-3].png")):
        (tmp_path / "pets" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "pets" / path.parent.name)
    notebook = read(ENGLISH)
    committed = pictures(notebook)
    parameters = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    data, out = str(tmp_path / "pets"), str(tmp_path)
    parameters.source = f"DATA, EPOCHS, SEED, OUT = {data!r}, 1, 0, Path({out!r})"
    # Raises what a cell raised.
    NotebookClient(notebook, resources={"metadata": {"path": FOLDER}}).execute()
    assert pictures(notebook) == committed
    assert "pets: 8 files in 2 classes" in printed(notebook)
    assert "nothing to do, it has 8 photos" in printed(notebook)
    for model in ("logistic", "svm", "mlp", "baseline", "finetuned"):
        assert (tmp_path / "runs/pets" / model / "result.json").exists()
    assert (tmp_path / "reports/pets/index.html").exists()
