"""Exporters, which write a trace for other tools, by type; and the methods of a trace that do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from modtrace.export.target import Target, Tick, write

if TYPE_CHECKING:
    from modtrace.trace.reader import Stored


@dataclass(frozen=True)
class Type:
    """A type of file: what writes it, how its name ends, and what it is for.

    any_table: it holds one table, which can be chosen; others hold calls, or all.
    """

    module: str
    function: str
    suffix: str
    doc: str
    binary: bool = False
    any_table: bool = False

    def chunks(self, stored: Stored, tick: Tick, **options: Any) -> Iterator[bytes]:
        """The content, piece by piece."""
        make: Callable[..., Iterator[bytes]] = getattr(
            import_module(f"modtrace.export.{self.module}"), self.function
        )
        return make(stored, tick, **options)


TYPES: Final = {
    "csv": Type("csv", "csv", ".csv", "one line a call, or a row of --table", any_table=True),
    "parquet": Type("parquet", "parquet", ".parquet", "the same with types and units", binary=True, any_table=True),
    "chrome": Type("chrome", "chrome", ".json", "a time line for Perfetto (ui.perfetto.dev)"),
    "speedscope": Type("speedscope", "speedscope", ".speedscope.json", "a flame chart for speedscope.app"),
    "collapsed": Type("collapsed", "collapsed", ".collapsed.txt", "stacks with self time in ns, for flame graphs"),
    "json": Type("json_tables", "json_tables", ".tables.json", "all tables"),
}  # fmt: skip
"""By the name that `modtrace export -t` takes."""


class Exports:
    """Methods of a trace that write it for other tools.

    Each takes a path, or a stream of text or bytes (`to_parquet`: of bytes). A file that is there is replaced with
    `force` alone; a new one is there whole or not at all, and readable by the user alone. They raise UsageError for a
    path that cannot be written or a table that is not known. What each file holds is in docs/exports.md.
    """

    def to_csv(self, target: Target, *, table: str = "calls", raw: bool = False, force: bool = False) -> None:
        """Write a table as CSV: one line a row, times in ns, sizes in bytes, nothing for null.

        Args:
            target: a path or a stream.
            table: `calls`, `modules`, `steps`, `folded`, `findings`, `gaps`, `operations`, `holders`, `kernels`,
                `syncs`, `compilations`, `values`, `nonfinite`, `rollups`, or `memory` for that of `series()`.
            raw: leave cells as they are that a spreadsheet would run as formulas; they get a `'` in front otherwise.
            force: replace a file that is there.
        """
        self._export("csv", target, force, table=_known(table), raw=raw)

    def to_parquet(self, target: Target, *, table: str = "calls", force: bool = False) -> None:
        """Write a table as Parquet, with types; units and descriptions are metadata of the columns.

        Args:
            target: a path or a stream of bytes.
            table: as for `to_csv`.
            force: replace a file that is there.
        """
        self._export("parquet", target, force, table=_known(table))

    def to_chrome(self, target: Target, *, force: bool = False) -> None:
        """Write a time line that Perfetto (ui.perfetto.dev) and chrome://tracing open."""
        self._export("chrome", target, force)

    def to_speedscope(self, target: Target, *, force: bool = False) -> None:
        """Write a profile a thread for speedscope.app, in nanoseconds."""
        self._export("speedscope", target, force)

    def to_collapsed(self, target: Target, *, force: bool = False) -> None:
        """Write one line a path of calls with its self time in nanoseconds, for makers of flame graphs."""
        self._export("collapsed", target, force)

    def to_json(self, target: Target, *, force: bool = False) -> None:
        """Write one JSON object with the tables `calls`, `modules`, `steps` and what else there is."""
        self._export("json", target, force)

    def _export(self, name: str, target: Target, force: bool, **options: Any) -> None:
        from modtrace.export.target import silent

        write(TYPES[name].chunks(self._read(), silent, **options), target, force=force)

    def _read(self) -> Stored:
        raise NotImplementedError


def _known(table: str) -> str:
    # Columns of tables are made up when this is imported, from a registry that may grow until then.
    from modtrace.trace.dataframes import known_table

    return known_table(table)
