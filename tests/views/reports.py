"""Traces that reports are tested with, and a reader of the data in a page that shares nothing with the page's own."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import torch

import modtrace

HOSTILE = [
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg onload=alert(1)>",
    "]]><!--<script>",
    "\u2028\u2029line",
    "\ud800 lone",
    "\x1b]0;title\x07",
    "\u202eevil",
    "=HYPERLINK(1)",
    "&lt;b&gt;",
    "javascript:alert(1)",
]


class Net(torch.nn.Module):
    """Three blocks alike, one of other names than people give, and one that is never called."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.blocks = torch.nn.Sequential(
            *(torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()) for _ in range(3))
        )
        self.odd = torch.nn.Sequential()
        for name in names:
            self.odd.register_module(name.replace(".", ""), torch.nn.Identity())
        self.never = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, 8] to the same."""
        return self.odd(self.blocks(x))


def train(path: Any, *, names: list[str], steps: int = 6, **options: Any) -> modtrace.Trace:
    """The trace of a few training steps of `Net`."""
    model = Net(names)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with modtrace.trace(path=path, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(4, 8)).sum().backward()
            optimizer.step()
    return modtrace.load(path)


def _read(form: str, value: int) -> float | None:
    if form == "double":
        return struct.unpack("<d", struct.pack("<Q", value - 1))[0] if value else None
    return (value >> 1) ^ -(value & 1) if form == "signed" else value - 1


class Page:
    """The data of a report, read anew: byte planes of columns; -1 for unknown, signed as zigzag, doubles as bits."""

    def __init__(self, html: str) -> None:
        self.html = html
        self.meta = json.loads(self.element("meta"))

    def element(self, name: str) -> str:
        """The text of the script element of this id."""
        found = re.findall(
            rf'<script type="[a-z/-]+" id="{re.escape(name)}">(.*?)</script>', self.html, re.DOTALL
        )
        assert len(found) == 1
        return str(found[0])

    def raw(self, name: str) -> bytes:
        """The bytes of a blob."""
        return zlib.decompress(base64.b64decode(self.element(f"blob-{name}"), validate=True), wbits=-15)

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        return list(json.loads(self.raw(name)))

    def columns(self, name: str) -> dict[str, list[Any]]:
        """Columns by name: integers, or doubles with None for unknown."""
        told, data, found, at = self.meta["blobs"][name], self.raw(name), {}, 0
        for column, planes, form in told["columns"]:
            values = [0] * told["rows"]
            for plane in range(planes):
                for row in range(told["rows"]):
                    values[row] |= data[at + row] << (8 * plane)
                at += told["rows"]
            found[column] = [_read(form, value) for value in values]
        assert at == len(data)
        return found

    def rows(self) -> Iterator[tuple[str, int, int, int]]:
        """Name, thread, start and duration (ns, -1 unknown) of every row of the timeline."""
        steps, paths, names = self.columns("details"), self.columns("paths"), self.texts("names")
        depths = self.columns("tree")["depth"]
        for step in range(len(steps["step"])):
            calls = self.columns(f"calls-{steps['chunk'][step]}")
            lasts: dict[int, list[tuple[int, int, int]]] = {}
            for at in range(steps["offset"][step], steps["offset"][step] + steps["calls"][step]):
                path, thread, took = calls["path"][at], calls["thread"][at], calls["duration_ns"][at]
                depth = depths[paths["node"][path]]
                before = lasts.setdefault(thread, [])
                start = steps["start_ns"][step]
                for other, began, ended in reversed(before):
                    if other in (depth, depth - 1):
                        start = ended if other == depth else began
                        break
                start += calls["gap_ns"][at]
                before.append((depth, start, start + max(took, 0)))
                yield names[paths["name"][path]], thread, start, took
