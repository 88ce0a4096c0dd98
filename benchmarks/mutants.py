"""Small changes of the code, one at a time: the share that tests notice is the strength of the tests.

python benchmarks/mutants.py map FILE [PATHS]   adds to a file which tests run which line, and how long each takes
python benchmarks/mutants.py run FILE [--count N] [--seed N] [--tests N] [--part K/N] [--again OUTPUT]

Mutants live in a copy of the working tree in a temporary folder. Each runs in a fork that has the libraries loaded.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import importlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("capture", "analysis", "trace", "views/models", "views")
TESTS = (
    "analysis", "capture", "trace", "views", "torture", "golden", "live", "export", "e2e", "comparing", "cuda",
    "debugging", "nonfinite", "cli", "systems", "integrations",
)  # fmt: skip
LIBRARIES = ("pandas", "pyarrow.parquet", "textual.app", "torch")
CPU_S, WAITING, KNOWN_S = 60, 5, 25.0
"""A mutant has so much processor time, and so many times as long in all: a busy machine is no timeout."""
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def changed(node: ast.AST) -> ast.AST | None:
    """The mutant of a node, None where it has none."""
    new: Any = copy.deepcopy(node)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        new.ops[0] = COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        new.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        new = new.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 1000:
        new.value += 1 if node.value % 2 == 0 else -1
    elif isinstance(node, ast.Return) and not (node.value is None or isinstance(node.value, ast.Constant)):
        new.value = ast.Constant(None)
    else:
        return None
    return new


def nodes(node: ast.AST, statement: int = 0) -> Iterator[tuple[ast.AST, int]]:
    """Nodes that run, each with its statement's line; without f-strings, whose positions are not true."""
    line = node.lineno if isinstance(node, ast.stmt) else statement
    yield node, line
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            skipped = isinstance(child, ast.JoinedStr) or field in {"annotation", "returns", "decorator_list"}
            if isinstance(child, ast.AST) and not skipped:
                yield from nodes(child, line)


def mutants(root: Path) -> list[dict[str, Any]]:
    """Every mutant of the files: path, lines of statement and node, text before and after, the new source."""
    listed = []
    for folder in FOLDERS:
        pattern = "*.py" if folder == "views" else "**/*.py"
        for path in sorted(Path(root, "modtrace", folder).glob(pattern)):
            source = path.read_bytes()
            starts = [0]
            for line in source.splitlines(keepends=True):
                starts.append(starts[-1] + len(line))
            for node, statement in nodes(ast.parse(source)):
                if (new := changed(node)) is None:
                    continue
                begin = starts[node.lineno - 1] + node.col_offset
                end = starts[node.end_lineno - 1] + node.end_col_offset
                text = ast.unparse(new)
                text = text if isinstance(new, ast.Return) else f"({text})"
                listed.append({
                    "path": str(path.relative_to(root)), "statement": statement, "line": node.lineno,
                    "before": source[begin:end].decode(), "after": text,
                    "source": source[:begin] + text.encode() + source[end:],
                })  # fmt: skip
    return listed


class Mapper:
    """A pytest plugin: the lines that each test runs, and its seconds."""

    def __init__(self) -> None:
        import coverage

        self.coverage = coverage.Coverage(source=[str(ROOT / "modtrace")], data_file=None, config_file=False)
        self.seconds: dict[str, float] = defaultdict(float)
        self.skipped: set[str] = set()
        self.coverage.start()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.skipped:
            self.skipped.add(report.nodeid)

    def added_to(self, known: dict[str, Any]) -> dict[str, Any]:
        """A map with the tests that were run: their seconds, and of each line of each file the tests that run it."""
        self.coverage.stop()
        data = self.coverage.get_data()
        tests, seconds = known.setdefault("tests", []), known.setdefault("seconds", {})
        seconds |= {test: spent for test, spent in self.seconds.items() if test not in self.skipped}
        tests += sorted(seconds.keys() - set(tests))
        number = {test: index for index, test in enumerate(tests)}
        for path in data.measured_files():
            lines = known.setdefault("lines", {}).setdefault(os.path.relpath(path, ROOT), {})
            for line, contexts in data.contexts_by_lineno(path).items():
                ran = {number[test] for test in contexts if test in number}
                lines[str(line)] = sorted(ran.union(lines.get(str(line), [])))
        return known


def words(path: str) -> set[str]:
    """The words of a path, in the singular."""
    return {word.rstrip("s") for word in re.split(r"[^a-z]+", path.removesuffix(".py"))} - {
        "",
        "modtrace",
        "test",
    }


def chosen_tests(known: dict[str, Any], mutant: dict[str, Any], limit: int, limit_s: float) -> list[str]:
    """At most so many tests that run a mutant's line, of so many seconds: files in turn, those first that share most
    words with its path, of each the quickest.
    """
    of_line = known["lines"].get(mutant["path"], {})
    numbers = of_line.get(str(mutant["line"])) or of_line.get(str(mutant["statement"])) or []
    if not numbers:  # a line that runs at import
        numbers = sorted({number for line in of_line.values() for number in line})
    tests = [known["tests"][number] for number in numbers]
    seconds, name, near = known["seconds"], Path(mutant["path"]).stem, words(mutant["path"])

    def distance(test: str) -> tuple[bool, int, float]:
        file = test.partition("::")[0]
        return f"/test_{name}." not in test, -len(near & words(file)), seconds[test]

    turns: dict[str, int] = defaultdict(int)
    ranked = []
    for test in sorted(
        tests, key=distance
    ):  # of each file one, of each a second one ...: those of one are alike
        file = test.partition("::")[0]
        ranked.append((turns[file], len(ranked), test))
        turns[file] += 1
    chosen, spent = [], 0.0
    for _, _, test in sorted(ranked)[:limit]:
        spent += seconds[test]
        if chosen and spent > limit_s:
            break
        chosen.append(test)
    return chosen


def label_of(mutant: dict[str, Any]) -> str:
    """A mutant as it is printed."""
    change = " ".join(f"{mutant['before']}  ->  {mutant['after']}".split())
    return f"{mutant['path']}:{mutant['line']}: {change}"


class Killer:
    """A pytest plugin that writes down the first test that fails."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self.path.open("a") as file:
                file.write(f"{report.nodeid}\n")


def failing(tree: Path, tests: list[str], *options: str, cpu_s: int = CPU_S) -> list[str]:
    """The tests that fail in a tree, run in a fork; "timeout" or "import" where it does not come so far."""
    log = tree / "killers.txt"
    log.unlink(missing_ok=True)
    if not (child := os.fork()):
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s + _spent_s(), cpu_s + _spent_s()))
        os.chdir(tree)
        os.environ["PYTHONPATH"], sys.dont_write_bytecode = str(tree), True
        output = os.open(tree / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        words = ["-q", "-n0", "-p", "no:cacheprovider", *options, *tests]
        status = 3
        try:
            status = int(pytest.main(words, plugins=[Killer(log)]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)  # nothing of the parent's is cleared away
    deadline, status = time.monotonic() + WAITING * cpu_s, None
    while status is None and time.monotonic() < deadline:
        ended, raw = os.waitpid(child, os.WNOHANG)
        status = os.waitstatus_to_exitcode(raw) if ended else None
        time.sleep(0.02)
    if status is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if status in (None, -signal.SIGXCPU, -signal.SIGKILL):
        return ["timeout"]
    names = log.read_text().splitlines() if log.exists() else []
    return names or ([] if status == 0 else ["import"])


def _spent_s() -> int:
    """Processor seconds of this process so far, rounded up."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int(used.ru_utime + used.ru_stime) + 1


def run(known: dict[str, Any], options: argparse.Namespace) -> None:
    """Print each mutant, what became of it, and the share that was killed."""
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder, "tree")
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".git", "__pycache__", ".*_cache"))
        compileall.compile_dir(
            tree, quiet=2, invalidation_mode=compileall.py_compile.PycInvalidationMode.CHECKED_HASH
        )
        every = mutants(tree)
        picked = random.Random(options.seed).sample(every, min(options.count, len(every)))
        part, parts = map(int, options.part.split("/"))
        picked = picked[part - 1 :: parts]
        if options.again:
            survivors = set(re.findall(r"^ *\d+ (.*)\n +SURVIVED", options.again.read_text(), re.MULTILINE))
            picked = [mutant for mutant in picked if label_of(mutant) in survivors]
        killers: dict[str, list[str]] = defaultdict(list)
        survived = 0
        for number, mutant in enumerate(picked):
            tests, path = chosen_tests(known, mutant, options.tests, options.seconds), tree / mutant["path"]
            original = path.read_bytes()
            path.write_bytes(mutant["source"])
            try:
                killer = failing(tree, tests, "-x") if tests else []
            finally:
                path.write_bytes(original)
            label = label_of(mutant)
            survived += not killer
            for test in killer:
                killers[test].append(label)
            state = f"killed by {killer[0]}" if killer else f"SURVIVED {len(tests)} tests"
            print(f"{number + 1:4} {label}\n     {state}", flush=True)
        sound = [test for test in killers if "::" in test]
        for test in failing(tree, sound, cpu_s=1_000) if sound else []:
            print(f"NOT SOUND, fails without a mutant: {test} for {killers.get(test)}")
        print(f"{len(picked) - survived} of {len(picked)} killed, {(1 - survived / len(picked)):.1%}")


def main() -> None:
    """Map tests to lines, or run mutants."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("verb", choices=("map", "run"))
    parser.add_argument("file", type=Path, help="where the map of lines to tests is")
    parser.add_argument(
        "paths", nargs="*", help="tests to map; the folders whose tests run in the process for none"
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tests", type=int, default=80)
    parser.add_argument("--part", default="1/1", help="the first, second ... of so many parts")
    parser.add_argument("--seconds", type=float, default=KNOWN_S, help="of tests for a mutant")
    parser.add_argument("--again", type=Path, help="those alone that survived in this output")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    os.chdir(ROOT)
    if options.verb == "map":
        mapper = Mapper()
        pytest.main(["-q", "-n0", *(options.paths or [f"tests/{name}" for name in TESTS])], plugins=[mapper])
        known = json.loads(options.file.read_text()) if options.file.exists() else {}
        options.file.write_text(json.dumps(mapper.added_to(known)))
    else:
        run(json.loads(options.file.read_text()), options)


if __name__ == "__main__":
    main()
