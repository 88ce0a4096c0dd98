"""The layout is one way down, viewing knows no torch, and importing modtrace costs next to nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import PACKAGE

FILES = sorted(PACKAGE.rglob("*.py"))
LEAVES = {"_version", "errors", "filter_language", "systems", "text", "units"}

MAY_IMPORT = {
    "_version": set(),
    "errors": set(),
    "systems": set(),
    "text": set(),
    "units": set(),
    "filter_language": {"errors", "text", "units"},
    "decorated": set(),
    "trace": LEAVES,
    "device_peaks": LEAVES | {"trace"},
    "capture": LEAVES | {"trace", "device_peaks"},
    "launch": LEAVES | {"trace", "capture"},
    "analysis": LEAVES | {"trace", "device_peaks"},
    "export": LEAVES | {"trace", "device_peaks", "analysis"},
    "views": LEAVES | {"trace", "device_peaks", "analysis"},
    "cli": LEAVES | {"trace", "device_peaks", "capture", "launch", "analysis", "export", "views"},
    "api": LEAVES
    | {"decorated", "trace", "device_peaks", "capture", "launch", "analysis", "export", "views"},
    "comparisons": LEAVES | {"api", "trace", "analysis", "export", "views"},
    "magic": LEAVES | {"api", "capture"},
    "integrations": {"api"},
    "__init__": LEAVES | {"api", "comparisons", "trace", "magic"},
    "__main__": {"cli"},
}
"""cli -> views, export -> analysis -> trace <- capture <- launch; the API and the package itself stand on top."""

ONLY_IN = {
    "torch": {"capture", "device_peaks"},
    "rich": {"views", "text"},
    "textual": {"views"},
    "pandas": {"analysis", "export", "views", "api", "comparisons"},
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


@pytest.mark.parametrize(
    "file", sorted((PACKAGE / "views").rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_views_share_headless_models(file):
    """Models know neither screens nor pages; printed texts know models alone."""
    room = file.relative_to(PACKAGE / "views").parts[0]
    screens = ("modtrace.views.tui", "modtrace.views.live")
    forbidden = {"models": ("textual", "rich", "modtrace.views"), "tui": (), "live": (), "html": screens}
    for name, _ in imports_of(file):
        if not (room == "models" and name.startswith("modtrace.views.models")):
            assert not name.startswith(forbidden.get(room, ("textual", "rich", *screens))), (
                f"{file} imports {name}"
            )


def test_no_screen_imports_the_application():
    """The application imports the screens; they know it as the protocol in `viewer_app`."""
    importers = {
        file.name
        for file in (PACKAGE / "views" / "tui").glob("*.py")
        for name, _ in imports_of(file)
        if name.startswith("modtrace.views.tui.app.")
    }
    assert not importers


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_is_evaluated(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called == "eval" and file.name == "structure_guards.py":
                continue  # a check that it has written itself, of the program's arguments: nothing that a file says
            assert called not in {"eval", "torch.load", "__import__"}, f"{file}:{node.lineno} calls {called}"


def test_only_the_extension_imports_the_magic():
    for file in FILES:
        names = [name for name, _ in imports_of(file) if name.startswith("modtrace.magic")]
        assert names == (
            ["modtrace.magic.register", "modtrace.magic.unregister"]
            if file == PACKAGE / "__init__.py"
            else []
        )
    check = "import sys, modtrace; assert 'modtrace.magic' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


def loaded_by(code: str) -> set[str]:
    """Top-level packages in `sys.modules` after running code in a fresh python."""
    script = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


TRACE = str(Path(__file__).parent / "golden" / "format-1.1" / "trace")
HEAVY = {"torch", "numpy", "pandas", "pyarrow", "rich", "textual"}


@pytest.mark.parametrize(
    ("code", "not_loaded"),
    [
        ("import modtrace", HEAVY),
        ("import modtrace.trace.folder, modtrace.trace.schema, modtrace.text", HEAVY),
        ("import modtrace; modtrace.load", {"torch", "rich", "textual"}),
        ("import modtrace.trace.reader", {"torch", "pandas", "rich", "textual"}),
        ("import modtrace.cli", HEAVY),
        ("import modtrace.views.console", {"torch", "pandas", "rich", "textual"}),
        (
            f"import modtrace; t = modtrace.load({TRACE!r}); t.summary(); t.tree()",
            {"torch", "pandas", "rich"},
        ),
        ("from modtrace.text import fit, pad, width; pad(fit('name' * 9, 20), 30); width('x')", HEAVY),
        ("import modtrace.capture.engine.tracer", {"pandas", "rich", "textual"}),
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
    """Every module but those of capture, of integrations and the one that measures device peaks, in one process."""
    names = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in FILES
        if layer_of(file) not in ("capture", "integrations", "__main__")
        and file != PACKAGE / "device_peaks" / "measure.py"
    ]
    assert "torch" not in loaded_by("\n".join(f"import {name}" for name in names))


def test_no_file_imports_itself_by_way_of_others():
    """Imports inside of functions and for type checkers count too: a circle cannot be read in any order."""
    names = {}
    for file in FILES:
        parts = ("modtrace", *file.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = file
    imports = {
        name: {
            target
            for imported, _ in imports_of(file)
            for target in (imported, imported.rpartition(".")[0])
            if target in names and (target == imported or imported not in names) and target != name
        }
        for name, file in names.items()
    }
    done: set[str] = set()
    while True:
        free = {name for name in imports if name not in done and imports[name] <= done}
        if not free:
            break
        done |= free
    assert not set(imports) - done, "in a circle, or above one"


EMPTY_WORDS = frozenset(
    [
        "found",
        "one",
        "held",
        "kept",
        "mine",
        "own",
        "told",
        "given",
        "made",
        "at",
        "here",
        "there",
        "rest",
        "what",
        "whole",
        "left",
        "said",
        "these",
        "some",
        "more",
        "kind",
    ]
)


NAMED = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.ExceptHandler,
    ast.MatchAs,
    ast.MatchStar,
)


def test_names_say_what_they_name():
    """Of all names that are assigned, and parameters, at most one in a hundred is a word without a meaning."""
    count, empty = 0, []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            name = None
            if isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                name = node.id if isinstance(node, ast.Name) else node.attr
            elif isinstance(node, NAMED):
                name = node.name
            if name is not None:
                count += 1
                if name.strip("_") in EMPTY_WORDS:
                    empty.append(f"{file.relative_to(PACKAGE)}:{node.lineno} {name}")
    assert count > 10_000
    assert len(empty) < 0.01 * count, "\n".join(empty)


def test_public_class_names_are_unique():
    """A name in a message or a docstring leads to one class. Messages of widgets are inside of their class."""
    files = {}
    for file in FILES:
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                files.setdefault(node.name, []).append(str(file.relative_to(PACKAGE)))
    assert len(files) > 200
    assert not {name: places for name, places in files.items() if len(places) > 1}


SAME_TOPIC = {
    "compilations", "device", "device_memory", "device_times", "flops", "kernels", "live", "memory", "modules",
    "nonfinite", "operations", "out_of_memory", "phases", "ranks", "report", "rollups", "roofline", "steps", "summary",
    "syncs",
    "tree", "values",
}  # fmt: skip
"""One topic has one name in every layer: its recorder, its analysis, its text, its verb."""


def test_file_names_repeat_only_from_layer_to_layer():
    """Two files of one name in one layer would be two things of one name."""
    layers: dict[str, list[str]] = {}
    for file in FILES:
        if file.stem != "__init__":
            layers.setdefault(file.stem, []).append(layer_of(file))
    repeated = {stem: places for stem, places in layers.items() if len(places) > 1}
    assert set(repeated) == SAME_TOPIC
    assert all(len(places) == len(set(places)) for places in repeated.values()), repeated
