"""The layout is one way down, viewing knows no torch, and importing modtrace costs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "modtrace"
FILES = sorted(PACKAGE.rglob("*.py"))
LEAVES = {"_version", "errors", "text", "units"}

MAY_IMPORT = {
    "_version": set(),
    "errors": set(),
    "text": set(),
    "units": set(),
    "trace": LEAVES,
    "capture": LEAVES | {"trace"},
    "analysis": LEAVES | {"trace"},
    "export": LEAVES | {"trace", "analysis"},
    "views": LEAVES | {"trace", "analysis"},
    "cli": LEAVES | {"trace", "capture", "analysis", "export", "views"},
    "api": LEAVES | {"trace", "capture", "analysis", "export", "views"},
    "magic": LEAVES | {"api"},
    "__init__": LEAVES | {"api", "trace", "magic"},
    "__main__": {"cli"},
}
"""cli -> views, export -> analysis -> trace <- capture; the API and the package itself stand on top."""

ONLY_IN = {
    "torch": {"capture"},
    "rich": {"views"},
    "textual": {"views"},
    "pandas": {"analysis", "export", "views", "api"},
    "pyarrow": {"trace", "analysis", "export"},
}

NOWHERE = {
    "pickle",
    "marshal",
    "shelve",
    "dill",
    "yaml",
    "socket",
    "http",
    "urllib",
    "requests",
    "pkg_resources",
}
"""Ways to run what a file says, and ways out of the machine."""


def layer_of(file: Path) -> str:
    """The sub-package a file is in, or the name of a file of the package itself."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(file: Path):
    """Every dotted name imported anywhere in a file, with False where it is for type checkers only."""
    tree = ast.parse(file.read_text())
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in typing_only


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    layer = layer_of(file)
    assert layer in MAY_IMPORT, f"{layer} has no place in the layout"
    for name, _ in imports_of(file):
        parts = name.split(".")
        if parts[0] == "modtrace" and len(parts) > 1 and parts[1] != layer:
            assert parts[1] in MAY_IMPORT[layer], f"{layer} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_heavy_packages_stay_where_they_belong(file):
    for name, at_run_time in imports_of(file):
        package = name.split(".")[0]
        assert package not in NOWHERE, f"{file} imports {name}"
        if at_run_time and package in ONLY_IN:
            assert layer_of(file) in ONLY_IN[package], f"{file} imports {name}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_is_evaluated(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "torch.load", "__import__"}, f"{file}:{node.lineno} calls {called}"


def test_only_the_extension_imports_the_magic():
    for file in FILES:
        names = [name for name, _ in imports_of(file) if name.startswith("modtrace.magic")]
        assert names == (["modtrace.magic.register"] if file == PACKAGE / "__init__.py" else [])
    check = "import sys, modtrace; assert 'modtrace.magic' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def loaded_by(code: str) -> set[str]:
    """Top-level packages in `sys.modules` after running code in a fresh python."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "numpy", "pandas", "pyarrow", "rich", "textual"}


@pytest.mark.parametrize(
    ("code", "not_loaded"),
    [
        ("import modtrace", HEAVY),
        ("import modtrace.trace.folder, modtrace.trace.schema, modtrace.text", HEAVY),
        ("import modtrace; modtrace.load", {"torch", "rich", "textual"}),
        ("import modtrace.trace.reader", {"torch", "pandas", "rich", "textual"}),
        ("import modtrace.cli", HEAVY),
        ("import modtrace.capture.tracer", {"pandas", "rich", "textual"}),
    ],
)
def test_importing_loads_no_more_than_it_needs(code, not_loaded):
    assert not loaded_by(code) & not_loaded


WHILE_RECORDING = """
import sys, time, torch, modtrace
class Fails(torch.nn.Module):
    def forward(self, x, *, scale): raise ValueError(scale)
model, fails = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()), Fails()
with modtrace.trace():
    before = set(sys.modules)
    for _ in range(2000):
        model(torch.ones(2, 3))
    try:
        fails(torch.ones(2, 3), scale=2)
    except ValueError:
        pass
    time.sleep(1.1)
    model(torch.ones(2, 3))
    model(torch.ones(2, 3))
    print(sorted(set(sys.modules) - before))
"""


def test_recording_imports_nothing():
    """An import inside a forward takes time there, and a descriptor that the script may not have left to us."""
    done = subprocess.run([sys.executable, "-c", WHILE_RECORDING], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_viewing_never_loads_torch():
    """Every module but those of capture, all in one process."""
    names = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in FILES
        if layer_of(file) not in ("capture", "__main__")
    ]
    assert "torch" not in loaded_by("\n".join(f"import {name}" for name in names))
