"""Process groups of torch.distributed, told apart over ranks and over starts of a rank."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from modtrace.trace.reader import Process

EVERY_RANK: Final = "default_pg"
"""torch's description of the group of all ranks."""
MANY_RANKS: Final = 1 << 16


@dataclass(frozen=True)
class GroupFacts:
    """A process group as one process has it.

    key: the same in all its ranks.
    ranks: numbers of its ranks in the job; None where not known.
    """

    key: Hashable
    name: str
    description: str
    ranks: tuple[int, ...] | None


def attempt_of(folder: str) -> int:
    """`rank-3.1` is the second start of rank 3: 1."""
    number = folder.rpartition(".")[2]
    return int(number) if "." in folder and number.isascii() and number.isdigit() and len(number) < 10 else 0


def group_facts(table: pa.Table, about: Process) -> dict[int, GroupFacts]:
    """The process groups of one process by their keys.

    A group that was made again has the name of the one before: they are told apart by their order. Groups of different
    starts of a rank are not the same.

    Args:
        table: `process_groups` of the process.
        about: the process.
    """
    seen: dict[Hashable, int] = {}
    facts = {}
    for row in sorted(table.to_pylist(), key=lambda row: int(row["process_group"])):
        if row["process_group"] in facts:
            continue
        name, description, listed = row["name"], row["description"], row["ranks"]
        if listed is None and description == EVERY_RANK and about.world_size:
            listed = range(min(about.world_size, MANY_RANKS))
        ranks = tuple(listed) if listed is not None else None
        key = (attempt_of(about.folder), name, ranks)
        seen[key] = seen.get(key, 0) + 1
        facts[row["process_group"]] = GroupFacts((*key, seen[key]), name, description, ranks)
    return facts
