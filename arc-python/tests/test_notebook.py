"""The notebook runs from beginning to end."""

from __future__ import annotations

import pytest
from conftest import ROOT, needs_models


def test_the_quickstart_runs_and_its_objects_show_themselves() -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    needs_models("smollm2-135m and gemma3-270m")
    notebook = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs"), "it is kept without what it printed"
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(ROOT / "examples")}}
    )
    client.execute()
    shown = [
        output["data"].get("text/html", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.output_type in ("execute_result", "display_data")
    ]
    assert any("<table>" in html and "smollm2-135m" in html for html in shown)
    assert any("<span title='latent 0" in html for html in shown)
