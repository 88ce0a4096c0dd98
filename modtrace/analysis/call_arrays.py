"""The calls of one process as arrays, an element a call: what phases and the borders of steps are worked out from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Calls:
    """The calls of one process in order of start, an array element a call; ids and `parent` are positions here.

    Integers may be as narrow as they are stored; times are of 64 bits.

    `label` is the phase of a PHASE (an index into `phases.NAMES`, -1 for another name) and `maker` tells optimizers
    apart. `forward` is the call whose backward a BACKWARD is, -1 for none. `parameters` is true where the
    module has any.
    """

    kind: Ints
    module: Ints
    parent: Ints
    last: Ints
    depth: Ints
    thread: Ints
    label: Ints
    maker: Ints
    forward: Ints
    mode: Ints
    start: Ints
    end: Ints
    known: Bools
    status: Ints
    parameters: Bools

    def __len__(self) -> int:
        return len(self.kind)
