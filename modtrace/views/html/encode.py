"""Columns of integers as text in a page: byte planes, raw deflate, base64.

A column is stored as unsigned integers, its bytes apart by significance: all lowest bytes, then all second bytes, and
so on up to the highest that is not 0 everywhere. Times differ in their low bytes and agree in the high ones, so this
deflates to about what is new in them, and a page puts them together again with one addition a byte.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Blob:
    """Some columns of one length, or a list of texts, as text for a page.

    columns: (name, number of byte planes, form) of each, in order; form is "", `signed` or `double`. Empty for texts.
    """

    rows: int
    columns: list[tuple[str, int, str]]
    text: str

    def layout(self) -> dict[str, Any]:
        """Rows and columns, for the page's script to read it by."""
        return {"rows": self.rows, "columns": self.columns}


def columns_blob(
    columns: Mapping[str, Ints], signed: Collection[str] = (), doubles: Collection[str] = ()
) -> Blob:
    """Columns of integers of one length.

    Args:
        columns: from -1, which is unknown, upwards; those `signed` of any sign, and nothing in them is unknown;
            `doubles` as `bits_of` gives them.
        signed, doubles: names.
    """
    rows = max((len(values) for values in columns.values()), default=0)
    parts, layout = [], []
    for name, values in columns.items():
        if name in doubles:
            form, stored = "double", values.view(np.uint64) + np.uint64(1)
        elif name in signed:
            form, stored = "signed", zigzag(values).view(np.uint64)
        else:
            form, stored = "", (np.maximum(values.astype(np.int64), -1) + 1).view(np.uint64)
        planes = _planes(stored.astype("<u8"))
        layout.append((name, len(planes), form))
        parts += planes
    return Blob(rows, layout, deflated(b"".join(parts)))


def bits_of(values: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> Ints:
    """Doubles by their bits, as integers; -1, a NaN that no arithmetic gives, where they are not known."""
    plain = np.where(np.isnan(values), np.nan, values)
    return np.where(known, plain.view(np.int64), -1)


def zigzag(values: Ints) -> Ints:
    """0, -1, 1, -2 as 0, 1, 2, 3."""
    integers = values.astype(np.int64)
    folded: Ints = (integers << 1) ^ (integers >> 63)
    return folded


def texts_blob(texts: Sequence[str]) -> Blob:
    """A list of texts."""
    return Blob(len(texts), [], deflated(json.dumps(list(texts), separators=(",", ":")).encode("ascii")))


def deflated(data: bytes) -> str:
    """Raw deflate, as base64."""
    packer = zlib.compressobj(level=9, wbits=-15)
    return base64.b64encode(packer.compress(data) + packer.flush()).decode("ascii")


def _planes(values: npt.NDArray[np.uint64]) -> list[bytes]:
    """The bytes of each significance, lowest first, without those above the highest that says anything."""
    count = (int(values.max(initial=0)).bit_length() + 7) // 8
    by_byte = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 8)
    return [by_byte[:, byte].tobytes() for byte in range(count)]


class TextTable:
    """Texts, each once, with a number."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._number: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        if text not in self._number:
            self._number[text] = len(self.all)
            self.all.append(text)
        return self._number[text]

    def numbers(self, texts: Sequence[str | None]) -> Ints:
        """The number of each, -1 for None."""
        return np.array([-1 if text is None else self.number(text) for text in texts], np.int64)

    def shorten(self, count: int) -> None:
        """Forget all but the first `count` texts."""
        for text in self.all[count:]:
            del self._number[text]
        del self.all[count:]
