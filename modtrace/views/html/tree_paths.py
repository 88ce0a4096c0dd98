"""Addresses of rows of the merged tree: labels from the top down, the same in every report of the same program."""

from __future__ import annotations

import re
from typing import Final

from modtrace.analysis.tree import Tree
from modtrace.text import plain
from modtrace.trace.schema import PHASES

_LABEL_LIMIT: Final = 512
_WORD: Final = re.compile(r"[\w.*:-]+")


_CLASS: Final = re.compile(r" \(\w+\)")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()")


def quoted(text: str) -> str:
    """A text as a part of an address, as JavaScript's `encodeURIComponent` has it."""
    return "".join(chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}" for byte in text.encode("utf-8"))


class TreePaths:
    """The paths of the rows of a tree, and the rows that a text names."""

    def __init__(self, tree: Tree) -> None:
        self._labels = [
            plain(label or class_name, _LABEL_LIMIT)
            for label, class_name in zip(tree.label, tree.type, strict=True)
        ]
        self._parent: list[int] = []
        self._repeat: list[int] = []
        seen: dict[tuple[int, str], int] = {}
        open_rows: list[int] = []
        for row, depth in enumerate(tree.depth.tolist()):
            del open_rows[depth:]
            parent = open_rows[-1] if open_rows else -1
            key = (parent, self._labels[row])
            seen[key] = seen.get(key, 0) + 1
            self._parent.append(parent)
            self._repeat.append(seen[key])
            open_rows.append(row)
        self._by_name: dict[str, int] = {}
        by_time = sorted(range(len(self._labels)), key=lambda row: -int(tree.self_ns[row]))
        for row in by_time:
            for name in (tree.name[row], tree.label[row], "" if tree.name[row] else tree.type[row]):
                if name:
                    self._by_name.setdefault(name, row)
                    self._by_name.setdefault(f"{name} ({tree.type[row]})", row)
            if tree.label[row] in PHASES:
                method = "step" if tree.label[row] == "optimizer" else tree.label[row]
                self._by_name.setdefault(f"{tree.type[row]}.{method}", row)

    def path(self, row: int) -> str:
        """`step/forward/GPT2/h.*`, quoted for an address; the second of two siblings of one label ends in `~2`."""
        parts = []
        while row >= 0:
            repeat = f"~{self._repeat[row]}" if self._repeat[row] > 1 else ""
            parts.append(quoted(self._labels[row]) + repeat)
            row = self._parent[row]
        return "/".join(reversed(parts))

    def named_in(self, text: str) -> tuple[str, int] | None:
        """The first word of a text that names a row (`h.3.mlp` names `h.*.mlp`), and the row with most time of its own
        of that name; None where no word does. A bare number is no name unless its class follows.
        """
        for match in _WORD.finditer(text):
            word = match[0].rstrip(".:-")
            if not re.search(r"[A-Za-z_]", word) and not text[match.end() :].startswith(" ("):
                continue
            class_text = _CLASS.match(text, match.end())
            row = self.row_of(word, class_text[0] if class_text else "")
            if row is not None:
                return word, row
        return None

    def row_of(self, word: str, class_text: str = "") -> int | None:
        """The row with most time of its own of a name, or of the name below its root; None for none.

        Args:
            word: the name.
            class_text: ` (Linear)`: of rows of one name that of this class.
        """
        patterns = (word, re.sub(r"(?<![^.])\d+(?![^.])", "*", word))
        for name in (*(f"{pattern}{class_text}" for pattern in patterns), *patterns):
            if name in self._by_name:
                return self._by_name[name]
        _, dot, inside = word.partition(".")
        return self.row_of(inside, class_text) if dot and inside else None
