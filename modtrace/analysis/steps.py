"""The `steps` DataFrame: until optimizers are seen a step is one root call."""

from __future__ import annotations

import numpy as np
import pandas as pd

from modtrace.analysis.calls import calls as calls_frame
from modtrace.trace.reader import Stored


def steps(stored: Stored) -> pd.DataFrame:
    """One row a root call, indexed by `step`: `call`, `type`, `rank`, `thread`, `start_ns`, `duration_ns`, `calls`
    (itself and all below), `status`, `error`.
    """
    frame = calls_frame(stored)
    roots = frame[frame["depth"] == 0]
    out = roots[["step", "type", "rank", "thread", "start_ns", "duration_ns", "status", "error"]].copy()
    out.insert(1, "call", roots.index.to_numpy())
    out.insert(7, "calls", np.asarray(roots["last_call"]) - roots.index.to_numpy() + 1)
    return out.sort_values(["rank", "step"], kind="stable").set_index("step")
