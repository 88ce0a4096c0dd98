"""Runs examples/modtrace.ipynb from its beginning, in a kernel of its own, and keeps in it what its cells show."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "modtrace.ipynb"


def main() -> None:
    """Write the notebook anew."""
    book = nbformat.read(NOTEBOOK, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR"):
            os.environ[name] = os.path.join(folder, name)
        os.environ["OMP_NUM_THREADS"] = (
            "1"  # times of a small model say nothing where threads wait for a core
        )
        client = nbclient.NotebookClient(book, timeout=200, kernel_name="python3", record_timing=False)
        client.execute(cwd=folder)
    nbformat.write(book, NOTEBOOK)


if __name__ == "__main__":
    main()
