"""The files around the package say what is so."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import runpy
import subprocess

import pytest

import modtrace
from modtrace.trace.schema import TABLES
from tests.places import PACKAGE, ROOT

SKIPPED = {".git", ".venv", "venv", "build", "dist", "__pycache__"}


def project_files():
    """All text files a clone has; of an installed package those that are installed too."""
    files = files_of_the_checkout()
    if PACKAGE.parent != ROOT:
        files += [file for file in PACKAGE.rglob("*") if "__pycache__" not in file.parts]
    return [file for file in files if file.is_file()]


def files_of_the_checkout():
    try:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT, capture_output=True, check=True, text=True,
        ).stdout.split("\0")  # fmt: skip
        return [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        return [file for file in ROOT.rglob("*") if not SKIPPED & set(file.relative_to(ROOT).parts)]


@pytest.fixture(scope="module")
def project():
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_metadata(project):
    assert project["name"] == "modtrace"
    assert project["license"] == "Apache-2.0"
    assert project["requires-python"] == ">=3.10"
    assert project["scripts"] == {"modtrace": "modtrace.cli:main"}


def test_dependencies(project):
    floors = dict(re.match(r"([a-z]+)(.*)", line).groups() for line in project["dependencies"])
    assert set(floors) == {"torch", "rich", "textual", "pandas", "pyarrow"}
    assert floors["torch"] == ">=2.6"
    # Older ones run code from a file they read: CVE-2023-47248.
    assert floors["pyarrow"] == ">=14.0.1"


def test_each_dependency_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.DOTALL | re.MULTILINE).group(1)
    lines = block.strip().splitlines()
    for comment, dependency in zip(lines[::2], lines[1::2], strict=True):
        assert comment.strip().startswith("# ")
        assert dependency.strip().startswith('"')


def test_each_lint_exception_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    exceptions = re.findall(r'^    "[A-Z]+\d*",(?! ").*$', text, re.MULTILINE)
    assert len(exceptions) > 20
    assert all("  # " in line for line in exceptions)


def test_tests_run_on_two_torches():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.14.1" in (ROOT / "constraints-newest.txt").read_text().splitlines()


def test_version_is_in_one_place():
    if installed():
        assert importlib.metadata.version("modtrace") == modtrace.__version__
    pattern = re.compile(rf"""["']{re.escape(modtrace.__version__)}["']""")
    said_by = [
        file.name for file in project_files() if file.suffix in (".py", ".toml") and says(file, pattern)
    ]
    assert said_by == ["_version.py"]


def installed():
    try:
        importlib.metadata.version("modtrace")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def says(file, pattern):
    try:
        return pattern.search(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        return None


def test_a_version_is_said_alike_everywhere():
    version = re.escape(modtrace.__version__)
    assert re.search(rf"^version: {version}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert re.search(
        rf"^## \[{version}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_classifiers_are_what_is_declared(project):
    """One for each Python from the oldest that is allowed on, and one for the system that it is tested on."""
    pythons = [line.rpartition(" ")[2] for line in project["classifiers"] if ":: Python :: 3." in line]
    assert pythons[0] == project["requires-python"].removeprefix(">=")
    assert pythons == [f"3.{minor}" for minor in range(10, 10 + len(pythons))]
    assert "Operating System :: POSIX :: Linux" in project["classifiers"]


def test_source_distribution_has_what_tests_read():
    text = (ROOT / "MANIFEST.in").read_text()
    for folder in ("tests", "docs", "examples", "benchmarks", ".github"):
        assert f"graft {folder}\n" in text
    for name in (
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "constraints.txt",
        "mkdocs.yml",
        ".ci/run",
        ".ci/wheel",
        ".gitignore",
    ):
        assert re.search(rf"^include .*{re.escape(name)}", text, re.MULTILINE)


def test_license_is_whole():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert text.rstrip().endswith("limitations under the License.")


def test_readme_has_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "    pip install . && modtrace run examples/feature_regression.py" in text
    assert "`pip install -c constraints.txt .`" in text
    assert "pip install -c constraints.txt -e '.[test]' && pytest" in text


def test_readme_and_docs_link_to_files_that_exist():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_page_of_the_format_is_not_stale():
    generator = runpy.run_path(str(ROOT / "docs" / "trace_format.py"))
    page = (ROOT / "docs" / "trace-format.md").read_text()
    assert page == generator["page"](), "run: python docs/trace_format.py"
    for table, columns in TABLES.items():
        assert f"### `{table}`" in page
        assert all(f"| `{column.name}` |" in page for column in columns)


def test_ci_runs_what_the_readme_says():
    script = ROOT / ".ci" / "run"
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert "pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'" in text
    steps = [text.index(step) for step in ("\nruff check", "\nruff format --check", "\nmypy", "\npytest")]
    assert steps == sorted(steps)
    newest = text[steps[-1] :]
    assert (
        "pip install --quiet --disable-pip-version-check -c constraints-newest.txt -e '.[test,models]'"
        in newest
    )
    assert "MODTRACE_REQUIRE_TORCHVISION=1" in newest
    assert "\npytest tests/torture tests/models tests/capture tests/e2e \\\n" in newest
    left_out = re.findall(r"--ignore (\S+)", newest)
    assert left_out == [
        f"tests/e2e/test_{name}.py"
        for name in ("traps", "environment", "signals", "children", "no_device_asked")
    ]
    assert all((ROOT / name).is_file() for name in left_out)
    assert "constraints-newest.txt" in (ROOT / "README.md").read_text()


def test_wheel_has_every_file_of_the_package():
    """Folders without `__init__.py`, and files that no pattern of `package-data` names, would be left out."""
    tomllib = pytest.importorskip("tomllib")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["*"]
    files = [file for file in PACKAGE.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    others = [file for file in files if file.suffix != ".py"]
    assert PACKAGE / "py.typed" in others
    assert [pattern for pattern in patterns if not any(file.match(pattern) for file in others)] == []
    assert [file for file in others if not any(file.match(pattern) for pattern in patterns)] == []
    assert [file for file in files if not (file.parent / "__init__.py").is_file()] == []


def test_wheel_script_runs_tests_that_are_there():
    script = ROOT / ".ci" / "wheel"
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert 'rm -r "$scratch/source/modtrace"' in text
    chosen = re.findall(r"tests/\S+", text[text.index("|| set --") :])
    assert len(chosen) > 10
    assert [path for path in chosen if not (ROOT / path).exists()] == []
    assert "`.ci/wheel`" in (ROOT / "CONTRIBUTING.md").read_text()


def test_functions_are_short():
    """Files are split by what a thing is, functions by what can be read at once."""
    long = [
        node.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not long


def test_docstrings_say_what_a_thing_is():
    """A noun or a verb first: "Whether", "What", "Which" or "How" open a riddle."""
    riddles, count = [], 0
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                text = node.value.value
                count += isinstance(text, str)
                if isinstance(text, str) and re.match(r"(Whether|What|Which|How|Why|Who)\b", text):
                    riddles.append(f"{file.relative_to(PACKAGE.parent)}:{node.lineno} {text.splitlines()[0]}")
    assert count > 2_000
    assert not riddles


def test_no_file_speaks_of_the_machine_it_was_written_on():
    """Folders, registries and tools of whoever wrote it are nobody else's business."""
    patterns = [
        r"/[w]ork/", r"/[o]pt/", r"/[r]oot/", r"/[h]ome/[a-z]", r"[t]mp/contract", r"/[f]arm/", r"\.[l]ibrary\b",
        r"[s]ubagent", r"pypi\.[o]rg", r"[f]iles\.pythonhosted", r"index-[u]rl", r"download\.[p]ytorch",
    ]  # fmt: skip
    pattern = re.compile("|".join(patterns))
    found = [str(file) for file in project_files() if says(file, pattern)]
    assert not found


def test_workflow_of_other_systems_names_what_is_there():
    """It is not run here: its commands are commands, its tests are files, and it says that it was not tried."""
    from modtrace.cli import VERBS

    text = (ROOT / ".github" / "workflows" / "systems.yml").read_text(encoding="utf-8")
    assert "Not tried on real machines yet" in text
    assert "untried" in (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
    used = set(re.findall(r"^ +modtrace (\w+)", text, re.MULTILINE))
    assert used == set(VERBS)
    paths = re.findall(r"\b(?:tests|examples)/\S+", text)
    assert len(paths) > 4
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert "windows-latest, macos-latest" in text
