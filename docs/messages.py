"""The messages of the program, collected from its code: errors that a person sees, warnings, and gaps of a trace.

In a message `...` stands for what is filled in. Where a call is given a name, the text is what this name was given in the
function around it, or that of the constant of this name, or what the function of this name returns.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import modtrace

PACKAGE = Path(modtrace.__file__).resolve().parent
ERRORS = (
    "UsageError", "TraceError", "WriteError", "SizeLimitError", "RegressionError", "CannotTellError", "RunFailedError",
    "ModtraceError", "CellError",
)  # fmt: skip
GAPS = ("Damage", "Cut")
NOTES = ("_note", "_break")
WARNINGS = ("warn", "_warn")
SAYS = ("live_run.py", "post_mortem.py")
UNKNOWN = "..."
Place = tuple[ast.expr | None, Path, ast.AST | None]


@dataclass(frozen=True, order=True)
class Message:
    """One message.

    kind: error, warning or gap.
    source: the file that makes it, from the package on.
    error: the class that is raised; "" for other kinds.
    """

    text: str
    kind: str
    source: str
    error: str = ""


class Texts:
    """The texts that expressions in the package may be."""

    def __init__(self) -> None:
        files = sorted(PACKAGE.rglob("*.py"))
        self.files = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
        self.names = {file: _names(file, tree) for file, tree in self.files.items()}
        self.imported = {file: dict(_imported(tree)) for file, tree in self.files.items()}

    def of(
        self, node: ast.expr | None, file: Path, inside: ast.AST | None = None, depth: int = 0
    ) -> list[str]:
        """The texts that an expression may be; UNKNOWN in the place of what is not known."""
        again = partial(self.of, file=file, inside=inside, depth=depth + 1)
        if depth > 8:
            return [UNKNOWN]
        if isinstance(node, ast.Constant):
            return [node.value] if isinstance(node.value, str) else [UNKNOWN]
        if isinstance(node, ast.JoinedStr):
            return ["".join(self._part(part, again) for part in node.values)]
        if isinstance(node, ast.BinOp):
            return [left + right for left in again(node.left) for right in again(node.right)]
        if isinstance(node, ast.IfExp):
            return again(node.body) + again(node.orelse)
        if isinstance(node, (ast.List, ast.Tuple)):
            return [text for part in node.elts for text in again(part)]
        if (
            isinstance(node, ast.Call)
            and _last(node.func) == "format"
            and isinstance(node.func, ast.Attribute)
        ):
            return [re.sub(r"\{[^}]*\}", UNKNOWN, text) for text in again(node.func.value)]
        return [
            text for place in self._places(node, file, inside) for text in self.of(*place, depth + 1)
        ] or [UNKNOWN]

    def _part(self, part: ast.expr, again: Callable[[ast.expr], list[str]]) -> str:
        """A piece of a text: itself, the text of a constant, or UNKNOWN."""
        if isinstance(part, ast.Constant):
            return str(part.value)
        value = part.value if isinstance(part, ast.FormattedValue) else None
        return again(value)[0] if isinstance(value, ast.Name) and value.id.isupper() else UNKNOWN

    def _places(self, node: ast.expr | None, file: Path, inside: ast.AST | None) -> list[Place]:
        """The expressions that a name, or a call of a function, stands for."""
        name = _last(node.func if isinstance(node, ast.Call) else node)
        if isinstance(node, ast.Name) and inside is not None:
            given = [part for part in ast.walk(inside) if isinstance(part, ast.Assign)]
            given = [part for part in given if _last(part.targets[0]) == name]
            if given:
                return [(part.value, file, inside) for part in given]
        here = self.names[file].get(name)
        return here or self.names.get(self.imported[file].get(name, file), {}).get(name, [])


def messages() -> list[Message]:
    """All of them, each text of a kind, or of a class of errors, once. Those of which nothing is known are left out: see `untold`."""
    found: dict[tuple[str, str, str], Message] = {}
    for message in _all():
        if message.text.strip(". :") and message.text:
            found.setdefault((message.kind, message.error, message.text), message)
    return sorted(found.values())


def untold() -> list[str]:
    """Files in which a message is made of which nothing is known here."""
    return sorted({message.source for message in _all() if not message.text.strip(". :") and message.text})


@cache
def _all() -> tuple[Message, ...]:
    texts, found = Texts(), []
    for file, tree in texts.files.items():
        for kind, node, inside in _uses(tree, file):
            for text in texts.of(node, file, inside):
                short = " ".join(re.sub(r"(\.\.\.)+", UNKNOWN, text.removeprefix("modtrace: ")).split())
                error = kind if kind in ERRORS else ""
                found.append(
                    Message(short, "error" if error else kind, file.relative_to(PACKAGE).as_posix(), error)
                )
    return tuple(found)


def _uses(tree: ast.Module, file: Path) -> Iterator[tuple[str, ast.expr, ast.AST | None]]:
    """(kind or class of error, expression, function around it) of each place that makes a message."""
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    around = {id(part): function for function in functions for part in ast.walk(function)}
    for node in ast.walk(tree):
        inside = around.get(id(node))
        if isinstance(node, ast.Raise):
            use = _raised(node)
        elif isinstance(node, ast.Call):
            use = _called(node, file)
        elif isinstance(node, ast.Return):
            use = _returned(node, file, inside)
        else:
            use = _assigned(node, file, inside)
        if use is not None:
            yield (*use, inside)


def _raised(node: ast.Raise) -> tuple[str, ast.expr] | None:
    if not isinstance(node.exc, ast.Call) or not node.exc.args or isinstance(node.exc.args[0], ast.Starred):
        return None
    name = _last(node.exc.func)
    if name not in (*ERRORS, *GAPS):
        return None
    return name if name in ERRORS else "gap", node.exc.args[0]


def _called(node: ast.Call, file: Path) -> tuple[str, ast.expr] | None:
    name = _last(node.func)
    if not node.args:
        return None
    if name == "__init__" and file.name == "errors.py" and isinstance(node.args[0], ast.JoinedStr):
        return "UsageError", node.args[0]  # PathTakenError words its message itself
    if name in WARNINGS or (name == "say" and file.name in SAYS):
        return "warning", node.args[0]
    if name in NOTES and file.parent.name == "trace":
        return "gap", node.args[0]
    if name == "append" and _owner(node.func) in ("gaps", "notes"):
        return "gap", node.args[0]
    return None


def _returned(node: ast.Return, file: Path, inside: ast.AST | None) -> tuple[str, ast.expr] | None:
    """What a rank is told, and why a run cannot be looked at while it goes on."""
    value = node.value.elts[-1] if isinstance(node.value, ast.Tuple) and node.value.elts else node.value
    if file.name == "shared_folder.py" and isinstance(value, ast.JoinedStr):
        return "warning", value
    if (
        file.name == "live_run.py"
        and getattr(inside, "name", "") == "against"
        and isinstance(value, ast.Constant)
    ):
        return ("warning", value) if isinstance(value.value, str) else None
    return None


def _assigned(node: ast.AST, file: Path, inside: ast.AST | None) -> tuple[str, ast.expr] | None:
    if isinstance(node, ast.AugAssign) and _last(node.target) in ("gaps", "notes"):
        return "gap", node.value
    if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and inside is None:
        return ("gap", node.value) if _target(node) == "lost" else None
    if isinstance(node, ast.keyword) and node.arg == "lost" and "torch_private" in file.parts:
        return "gap", ast.BinOp(node.value, ast.Add(), ast.Constant(": torch ... has no ..."))
    return None


def _names(file: Path, tree: ast.Module) -> dict[str, list[Place]]:
    """What names at the top of a file are, and what its functions return."""
    named: dict[str, list[Place]] = {}
    for node in tree.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(
            node.value, (ast.Constant, ast.JoinedStr, ast.BinOp)
        ):
            named[_target(node)] = [(node.value, file, None)]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            returned = [
                part.value
                for part in ast.walk(node)
                if isinstance(part, ast.Return) and part.value is not None
            ]
            named[node.name] = [(value, file, node) for value in returned]
    return named


def _imported(tree: ast.Module) -> Iterator[tuple[str, Path]]:
    """Names that a file imports from the package, with the file they are from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("modtrace."):
            stem = PACKAGE.parent.joinpath(*str(node.module).split("."))
            file = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
            yield from ((alias.asname or alias.name, file) for alias in node.names)


def _target(node: ast.Assign | ast.AnnAssign) -> str:
    return _last(node.targets[0] if isinstance(node, ast.Assign) else node.target)


def _last(node: ast.expr | None) -> str:
    """The last part of a dotted name; "" for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _owner(node: ast.expr) -> str:
    """The part before the last of a dotted name."""
    return _last(node.value) if isinstance(node, ast.Attribute) else ""
