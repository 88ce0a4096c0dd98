"""A trace with fixed times, written a step at a time."""

from __future__ import annotations

from pathlib import Path

from modtrace.trace.folder import create, make_process_folder, write_json
from modtrace.trace.run_json import run_facts
from modtrace.trace.schema import BACKWARD, END_FILE, MODULE, PHASE, PROCESS_FILE
from modtrace.trace.writer import Writer

MS = 1_000_000
MODULES = (
    ("GPT", ""), ("ModuleList", "h"), ("Block", "h.0"), ("Linear", "h.0.fc"), ("GELU", "h.0.act"), ("Block", "h.1"),
    ("Linear", "h.1.fc"), ("GELU", "h.1.act"), ("Evil\x1b[31m[red]", "head\u202eevil"),
)  # fmt: skip
LABELS = (("zero_grad", "SGD"), ("backward", ""), ("optimizer", "SGD"), ("data", "DataLoader"))


class Made:
    """The trace of a run of made-up steps; `step` writes one more."""

    def __init__(self, path: Path, *, rank: int = 0) -> None:
        facts = run_facts(script="train.py", launch="one", started_unix_ns=1_000)
        name = f"rank-{rank}"
        self.folder = make_process_folder(path, name) if path.exists() else create(path, facts, process=name)
        write_json(
            self.folder,
            PROCESS_FILE,
            {
                "pid": 4121,
                "rank": rank,
                "started_unix_ns": 1_000,
                "cost": {"call_ns": 4000, "outside_ns": 1000},
            },
        )
        self.writer = Writer(self.folder)
        self.calls = self.now = self.steps = 0
        self._rows: list[dict[str, int | None]] = []
        modules = range(len(MODULES))
        self._put("modules", [
            {
                "module": at, "type": kind, "type_module": "mine", "parameter_count": 0 if kind == "GELU" else 10,
                "parameter_bytes": 40, "trainable_count": 10, "trainable_bytes": 40,
                "buffer_count": 0, "buffer_bytes": 0, "parameters": [],
                "training": True, "extra_repr": None, "source_file": None, "source_line": None, "overrides_call": False,
                "variable": None, "instances": 1,
            }
            for at, (kind, _) in enumerate(MODULES)
        ])  # fmt: skip
        self._put(
            "names", [{"root": 0, "module": at, "name": MODULES[at][1], "aliases": []} for at in modules]
        )
        self._put("labels", [
            {"label": at, "name": name, "type": kind, "source_file": None, "source_line": None, "source_offset": None}
            for at, (name, kind) in enumerate(LABELS)
        ])  # fmt: skip

    def _put(self, table: str, rows: list[dict]) -> None:
        self.writer.append(table, {name: [row[name] for row in rows] for name in rows[0]}, at_ns=self.now)

    def _call(
        self, kind: int, what: int, own_ms: float, *inside: tuple, over: int = -1, depth: int = 0
    ) -> None:
        call, start = self.calls, self.now
        self.calls += 1
        row: dict[str, int | None] = {
            "call": call, "parent": over, "kind": kind, "depth": depth, "start_ns": start, "status": 0, "label": None,
            "module": None, "root": None, "forward": None, "mode": 0, "self_ns": int(own_ms * MS), "tracer_ns": 0,
            "hooks_ns": None, "output_replaced": None, "inputs": None, "outputs": None, "error": None,
        }  # fmt: skip
        row |= {"label": what} if kind == PHASE else {"module": what, "root": 0}
        self._rows.append(row)
        self.now += int(own_ms * MS)
        for one in inside:
            self._call(*one, over=call, depth=depth + 1)
        row |= {"duration_ns": self.now - start, "last_call": self.calls - 1}

    def step(self, scale: float = 1.0) -> None:
        """One more step, of about 20 ms."""
        blocks = [
            (MODULE, 2 + 3 * at, 0.1, (MODULE, 3 + 3 * at, 3.0 * scale), (MODULE, 4 + 3 * at, 0.5))
            for at in (0, 1)
        ]
        self._call(PHASE, 3, 1 + self.steps % 3)
        self._call(PHASE, 0, 0.2)
        self._call(MODULE, 0, 0.3, *blocks, (MODULE, 8, 0.4))
        self._call(PHASE, 1, 1.0, (BACKWARD, 0, 6.0))
        self._call(PHASE, 2, 2.0)
        self.steps += 1
        rows, self._rows = self._rows, []
        self._put("calls", rows)

    def end(self, status: int = 0) -> None:
        self.writer.close()
        write_json(
            self.folder,
            END_FILE,
            {"ended_ns": self.now, "exit_status": status, "rows": {"calls": self.calls}, "cost": {}},
        )
