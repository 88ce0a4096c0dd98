"""Titles of calls, one line each: `layers.0.mlp Linear`, `optimizer SGD`, `ResNet backward`.

Where there are several roots the name of the root stands before: `G.layers.0.mlp Linear`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modtrace.analysis.calls import CallNames
from modtrace.analysis.columns import column, nullable_codes
from modtrace.analysis.roots import qualified, roots
from modtrace.analysis.timeline import timeline
from modtrace.text import plain
from modtrace.trace.reader import Stored
from modtrace.trace.schema import BACKWARD

Ints = npt.NDArray[np.int64]


def titles(stored: Stored) -> tuple[npt.NDArray[np.int32], list[str]]:
    """For each row of the timeline a key into a list of titles, each there once."""
    line = timeline(stored)
    table = line.calls
    module, root = nullable_codes(table, "module"), nullable_codes(table, "root")
    named = CallNames(stored)
    name = named.codes(root, module)
    of_label = module < 0
    backward = column(table, "kind") == BACKWARD
    kinds = stored.table("modules").column("type").to_pylist()
    tops = roots(stored)
    top_names, several = tops.name, len(tops.called) > 1
    key_code = np.where(of_label, nullable_codes(table, "label") << 1 | 1, name << 1)
    other = np.where(of_label, 0, module) << 1 | backward
    pairs, which = np.unique(key_code << 32 | other, return_inverse=True)
    place: dict[str, int] = {}
    texts = []
    for pair in pairs.tolist():
        key, variant = pair >> 32, pair & 0xFFFFFFFF
        words = line.labels[key >> 1] if key & 1 else (named.texts[key >> 1], kinds[variant >> 1])
        if several and not key & 1 and key >> 1 < len(named.tops):
            words = qualified(top_names[named.tops[key >> 1]], *words)
        title = " ".join(filter(None, [*map(plain, words), "backward" if variant & 1 else ""]))
        texts.append(place.setdefault(title, len(place)))
    return np.array(texts, np.int32)[which] if len(which) else np.zeros(0, np.int32), list(place)
