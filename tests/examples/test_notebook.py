"""examples/notebook.ipynb, executed in a kernel of its own."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.examples.page import ROOT, SMALL
from tests.resnet8 import environment

# Both warn of what they will need of each other one day.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def notebook():
    return nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)


def outputs(notebook, cell_id):
    [cell] = [cell for cell in notebook.cells if cell.id == cell_id]
    return cell.outputs


def test_it_is_kept_without_outputs(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_it_runs(notebook, tmp_path):
    [parameters] = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())
    ]
    changes = SMALL | {"num_steps": 4, "model": "resnet8_cifar"}
    del changes["eval_split"]
    parameters.source += f"\nchanges = {changes}\nfrom tests import resnet8\nresnet8.add()"
    client = NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute(env=environment() | {"PYTHONPATH": str(ROOT)}, cwd=str(tmp_path))

    [table] = [output for output in outputs(notebook, "train") if "data" in output]
    assert "<th>top-1 error</th>" in table.data["text/html"]
    for cell in ("curves", "confusion", "worst"):
        assert "image/png" in outputs(notebook, cell)[-1].data
    [predictions] = outputs(notebook, "predict")
    assert predictions.text.count("%") == 3
    [shapes] = outputs(notebook, "features")
    assert "'stage3': (1, 7, 7, 64)" in shapes.data["text/plain"]
    stderr = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert stderr == []
