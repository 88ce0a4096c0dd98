"""What `import modtrace` offers: adding a name is a decision."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import modtrace

NAMES = [
    "CannotTellError", "Difference", "ModtraceError", "Recording", "RegressionError", "Trace", "TraceError",
    "UsageError", "__version__", "breakpoint", "check", "compare", "load", "pm", "span", "step", "trace",
]  # fmt: skip


def test_public_names():
    assert sorted(modtrace.__all__) == NAMES
    assert dir(modtrace) == NAMES


def test_every_name_is_documented():
    for name in NAMES:
        value = getattr(modtrace, name)
        if name != "__version__":
            assert inspect.getdoc(value), name


def test_trace_has_what_the_readme_uses():
    names = {
        "path",
        "run",
        "failure",
        "calls",
        "modules",
        "folded",
        "profile",
        "findings",
        "gaps",
        "operations",
        "holders",
        "kernels",
        "syncs",
        "compilations",
        "columns",
        "series",
        "steps",
        "summary",
        "tree",
        "save",
        "to_csv",
        "to_html",
        "show",
        "to_parquet",
        "to_chrome",
        "to_speedscope",
        "to_collapsed",
        "to_json",
    }
    assert names <= {name for name in dir(modtrace.Trace) if not name.startswith("_")}
    for name in names:
        assert inspect.getdoc(inspect.getattr_static(modtrace.Trace, name)), name


@pytest.mark.parametrize(
    "code",
    [
        "import modtrace",
        "import modtrace; import modtrace.trace.reader",
        "import modtrace.trace.schema; import modtrace",
        "from modtrace.trace.schema import VERSION; import modtrace",
        "import modtrace; modtrace.load; from modtrace.trace.folder import find",
    ],
)
def test_the_function_is_not_hidden_by_the_package(code):
    """`modtrace.trace` is what people call and `modtrace/trace/` is the format: neither import may hide the other."""
    check = "assert callable(modtrace.trace) and modtrace.trace.__doc__"
    subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True)
