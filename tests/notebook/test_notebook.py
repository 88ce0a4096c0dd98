"""The notebook of the examples runs in a kernel, twice, and is kept with outputs that name no machine:
`python docs/notebook_outputs.py` writes these anew.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbclient
import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "modtrace.ipynb"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning:zmq")


def text_of(cell):
    """What a cell shows, as plain text."""
    outputs = cell.get("outputs", [])
    assert not [one for one in outputs if one["output_type"] == "error"]
    return "".join(one.get("text") or one["data"]["text/plain"] for one in outputs)


def without_numbers(text):
    return re.sub(r"\s+", " ", re.sub(r"[\d.,]+ ?(ns|us|ms|s|%)?", "#", text))


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook as it is kept, and as it was executed."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("notebook")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
        patch.setenv(name, str(folder / name))
    kept = nbformat.read(NOTEBOOK, as_version=4)
    book = nbformat.read(NOTEBOOK, as_version=4)
    training = next(cell for cell in book.cells if cell["id"] == "training")
    book.cells.append(nbformat.v4.new_code_cell(training["source"], id="again"))
    book.cells.append(nbformat.v4.new_code_cell("assert len(t.steps) == 5", id="checked"))
    nbclient.NotebookClient(book, timeout=200, kernel_name="python3").execute(cwd=str(folder))
    patch.undo()
    return kept, book


def test_it_runs(executed):
    _, book = executed
    shown = {cell["id"]: text_of(cell) for cell in book.cells if cell["cell_type"] == "code"}
    for cell in ("training", "again"):
        assert "modtrace  trace" in shown[cell]
        assert "5 steps in " in shown[cell]
    modules = [line.split()[-3:] for line in shown["modules"].splitlines()[2:]]
    assert modules[1] == ["5", str(5 * 2 * 32 * 64 * 256), str(64 * 256 + 256)]
    assert shown["alone"].startswith("torch.Size([1, 256])")
    assert len(re.findall(r"f32\[1,64\] +f32\[1,256\] +ok", shown["calls"])) == 2


def test_what_is_kept_is_what_it_shows(executed):
    kept, book = executed
    for before, after in zip(kept.cells, book.cells, strict=False):
        if before["cell_type"] == "code" and before["id"] in ("modules", "calls", "load"):
            assert without_numbers(text_of(before)) == without_numbers(text_of(after)), before["id"]


def test_a_recorded_cell_shows_the_table_of_its_trace(executed):
    for book in executed:
        for cell in book.cells:
            if cell["source"].startswith("%%modtrace") and cell["id"] != "again":
                shown = [
                    output["data"] for output in cell["outputs"] if output["output_type"] == "display_data"
                ]
                assert [set(data) for data in shown] == [{"text/html", "text/plain"}], cell["id"]
                assert "Where the time went" in shown[0]["text/html"]
                assert not [output for output in cell["outputs"] if output["output_type"] == "stream"]


def test_it_is_small_and_names_no_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 30_000
    assert not re.search(r"/(home|root|tmp|usr|opt|work|Users)\b", text)
    nbformat.validate(nbformat.reads(text, as_version=4))
