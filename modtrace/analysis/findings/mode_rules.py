"""Rules about training and evaluation mode: batches of 1 in BatchNorm, graphs kept while evaluating."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from modtrace.analysis.calls import CallNames
from modtrace.analysis.columns import column, nullable_codes, values_and_known
from modtrace.analysis.findings.base import Facts, Finding, ended_early, listed
from modtrace.analysis.phases import EVAL, FORWARD
from modtrace.trace.schema import EVALUATING, MODULE, NO_GRAD, OK, SHORT_DTYPES
from modtrace.units import duration, plural

BATCH_NORMS: Final = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm")


def batch_norm(facts: Facts) -> Iterator[Finding]:
    """BatchNorm in training mode was given batches of 1."""
    calls = facts.calls
    norm_classes = (
        BATCH_NORMS if facts.stored.process_count == 1 else BATCH_NORMS[:3]
    )  # SyncBatchNorm adds batches up
    table = facts.stored.table("modules")
    types, training = table.column("type").to_pylist(), table.column("training").to_pylist()
    meant = [
        class_name in norm_classes and bool(trains)
        for class_name, trains in zip(types, training, strict=True)
    ]
    if not any(meant):
        return
    module = nullable_codes(calls, "module")
    rows = np.flatnonzero(
        np.array([*meant, False])[module]
        & (nullable_codes(calls, "phase") == FORWARD)
        & (column(calls, "kind") == MODULE)
    )
    texts = facts.stored.table("signatures").column("text").to_pylist()
    single = np.array([*(_batch_of(text) == 1 for text in texts), False], np.bool_)
    alone = rows[single[nullable_codes(calls, "inputs")[rows]]]
    if len(alone):
        names_of_modules = CallNames(facts.stored)
        pair = (
            names_of_modules.codes(nullable_codes(calls, "root")[alone], module[alone]) << 32 | module[alone]
        )
        first = np.sort(np.unique(pair, return_index=True)[1])
        pairs = [
            (names_of_modules.texts[code >> 32], types[code & 0xFFFFFFFF]) for code in pair[first].tolist()
        ]
        names = dict.fromkeys(f"{name or class_name} ({class_name})" for name, class_name in pairs)
        text = (
            f"batches of 1 in training mode: {listed(names)}, in {plural(len(alone), 'call')} of {len(rows)}"
        )
        last = len(alone) < len(rows) / 2
        remedy = (
            "drop_last=True, if they are the last batches" if last else "use larger batches, or GroupNorm"
        )
        yield Finding("batch_norm", text, f"{remedy}, or eval() it", wrong=True)


def _batch_of(signature: object) -> int:
    """The first dimension of a text such as f32[1,3,8,8]; 0 for another text."""
    dtype, _, shape = signature.partition("[") if isinstance(signature, str) else ("", "", "")
    first = shape.partition(",")[0]
    return int(first) if dtype in SHORT_DTYPES.values() and "," in shape and first.isdigit() else 0


def eval_with_grad(facts: Facts) -> Iterator[Finding]:
    """Root calls in eval mode, of trainable modules, with grad mode on and no backward after them."""
    calls, modules = facts.calls, facts.stored.table("modules")
    mode, known = values_and_known(calls, "mode")
    rows = np.flatnonzero(known & ((mode & EVALUATING) > 0) & ((mode & NO_GRAD) == 0))
    module = nullable_codes(calls, "module")
    trainable = np.append(values_and_known(modules, "trainable_count")[0] > 0, False)
    chosen = (nullable_codes(calls, "phase")[rows] == EVAL) & (nullable_codes(calls, "inputs")[rows] >= 0)
    rows = rows[chosen & trainable[module[rows]] & (column(calls, "status")[rows] == OK)]
    if ended_early(facts.stored):
        rows = rows[:-1]  # a backward of the last might have followed
    if len(rows):
        spent = int(facts.known_ns("duration_ns")[rows].sum())
        class_name = modules.column("type")[int(module[rows[0]])].as_py()
        text = (
            f"{plural(len(rows), 'evaluation')} of {class_name} kept a graph for backward ({duration(spent)})"
        )
        yield Finding(
            "eval_with_grad", text, "evaluate under torch.no_grad() or inference_mode()", spent // 4
        )
