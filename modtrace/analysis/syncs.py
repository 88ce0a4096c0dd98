"""Where module calls wait for a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from modtrace.analysis.calls import names
from modtrace.analysis.columns import column, distinct_texts, nullable, nullable_codes
from modtrace.analysis.module_repeats import folded
from modtrace.analysis.timeline import timeline
from modtrace.trace.reader import Stored

if TYPE_CHECKING:
    import pandas as pd

HOST: Final = "cpu"


def syncs(stored: Stored) -> pd.DataFrame:
    """One row a kind of wait in a place of the code in each call: `call`, `module`, `type`, `step`, `what`, `device`
    (cpu where nothing was waited for, but would be on a device), `source_file`, `source_line`, `count`, `size_bytes`
    (of copies and values, all together).
    """
    import pandas as pd

    table, calls = stored.table("syncs"), timeline(stored).calls
    rows = timeline(stored).place[column(table, "call")]
    module, root = nullable_codes(calls, "module")[rows], nullable_codes(calls, "root")[rows]
    codes, texts = names(stored, np.maximum(root, 0), np.maximum(module, 0))
    types = stored.table("modules").column("type").to_pylist()
    step = nullable_codes(calls, "step")[rows]
    data: dict[str, Any] = {
        "call": rows,
        "module": distinct_texts(np.where(module >= 0, codes, -1), texts),
        "type": distinct_texts(module, types),
        "step": pd.arrays.IntegerArray(np.maximum(step, 0), step < 0),
        "what": pd.Categorical(table.column("what").to_pylist()),
        "device": pd.Categorical(table.column("device").to_pylist()),
        "source_file": pd.Categorical(table.column("source_file").to_pylist()),
        "source_line": nullable(table, "source_line"),
        "count": column(table, "count").astype(np.int64),
        "size_bytes": nullable(table, "size_bytes"),
    }
    return pd.DataFrame(data)


@dataclass(frozen=True)
class SyncLine:
    """A line of code that waits, in one group of modules, over the whole trace.

    count: how often; steps: in how many steps.
    size_bytes: copied, all together; None where not known.
    """

    name: str
    type: str
    what: str
    device: str
    file: str | None
    line: int | None
    count: int
    steps: int
    size_bytes: int | None

    @property
    def waits(self) -> bool:
        """True if it waited for a device; else it would have if its tensors had been on one."""
        return self.device != HOST


def places(stored: Stored, steps: list[int] | None = None, rank: int = 0) -> list[SyncLine]:
    """The lines that wait, the most often first.

    Args:
        stored: the trace.
        steps: only what was in these steps of `rank`.
        rank: as said.
    """
    if not len(stored.table("syncs")):
        return []
    import pandas as pd

    frame, groups = syncs(stored), folded(stored)
    if steps is not None:
        ranks = column(timeline(stored).calls, "rank")[frame["call"].to_numpy(np.int64)]
        frame = frame[frame["step"].isin(steps) & (ranks == rank)]
    frame = frame.assign(group=groups.group[frame["call"].to_numpy(np.int64)])
    keys = ["group", "what", "device", "source_file", "source_line"]
    places_of_waits = []
    for _, rows in frame.groupby(keys, observed=True, dropna=False, sort=False):
        first = rows.iloc[0]
        group, file, line = int(first["group"]), first["source_file"], first["source_line"]
        unknown = bool(rows["size_bytes"].isna().any())
        places_of_waits.append(
            SyncLine(
                groups.title(group),
                groups.type[group],
                str(first["what"]),
                str(first["device"]),
                file if isinstance(file, str) else None,
                int(line) if line is not pd.NA else None,
                int(rows["count"].sum()),
                int(rows["step"].nunique()),
                None if unknown else int(rows["size_bytes"].sum()),
            )
        )
    return sorted(places_of_waits, key=lambda wait_place: (not wait_place.waits, -wait_place.count))
