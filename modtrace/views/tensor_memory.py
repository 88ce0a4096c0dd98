"""Saved tensors, and sizes from shapes, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.memory_from_shapes import ShapeMemory
from modtrace.analysis.saved_totals import Keeper, SavedTotals
from modtrace.text import fit, pad, plain
from modtrace.units import count, percent, plural, size
from modtrace.views.memory import joined

MANY = 12


def kept_lines(saved: SavedTotals | None, *, width: int) -> list[str]:
    """Bytes saved for backward when the largest backward began, by module; nothing where they were not counted."""
    if saved is None:
        return []
    most = f" (the most of {saved.backwards} backwards)" if saved.backwards > 1 else ""
    step = f" of step {saved.step}" if saved.step >= 0 else ""
    least = "" if saved.complete else "at least "
    lines = [f"  kept for backward{step}: {least}{size(saved.saved_bytes)}{most}"]
    if not saved.complete:
        lines.append(f"  not counted: {_uncounted(saved.packed, saved.uncounted)}")
    name_width = max(min(34, width - 44), 12)
    lines += ["", f"  {pad('KEPT FOR BACKWARD BY', name_width)} {'bytes':>9} {'%':>5} {'pieces':>7}"]
    for keeper in saved.keepers[:MANY]:
        lines.append(_keeper(keeper, saved.saved_bytes, name_width))
    remaining = saved.keepers[MANY:]
    if remaining:
        remaining_bytes = sum(keeper.saved_bytes for keeper in remaining)
        label = pad(f"{len(remaining)} more", name_width)
        lines.append(f"  {label} {size(remaining_bytes):>9} {percent(remaining_bytes, saved.saved_bytes):>5}")
    return lines


def _keeper(keeper: Keeper, total: int, name_width: int) -> str:
    shown = _name(keeper.name or "outside of modules", keeper.type, name_width)
    lacking = _uncounted(keeper.packed, keeper.uncounted)
    saved_text = size(keeper.saved_bytes) if keeper.storages or not lacking else "?"
    share = percent(keeper.saved_bytes, total) if keeper.storages else ""
    note = f"  not counted: {lacking}" if lacking else ""
    return f"  {shown} {saved_text:>9} {share:>5} {count(keeper.storages):>7}{note}"


def _uncounted(packed: int, names: Sequence[str]) -> str:
    parts = [f"{plural(packed, 'tensor')} that hooks hold (checkpoint)"] if packed else []
    return ", ".join([*parts, *(plain(name) for name in names[:4])])


def _name(name: str, class_name: str, width: int) -> str:
    suffix = f"  {plain(class_name)}" if class_name not in ("", name) else ""
    return pad(fit(f"{fit(plain(name), width, keep_end=True)}{suffix}", width), width)


def kept_summary(saved: SavedTotals | None) -> list[str]:
    """A line for the summary, nothing where it was not counted."""
    if saved is None:
        return []
    largest = next((keeper for keeper in saved.keepers if keeper.saved_bytes), None)
    where = f", most by {plain(largest.name) or 'what is outside of modules'}" if largest is not None else ""
    least = "" if saved.complete else "at least "
    step = f" (step {saved.step})" if saved.step >= 0 else ""
    return [f"  kept      {least}{size(saved.saved_bytes)} for backward{where}{step}"]


def held_lines(sizes: ShapeMemory, *, width: int) -> list[str]:
    """Sizes of parameters, gradients, optimizer states and outputs, worked out from shapes."""
    lines = ["  FROM SHAPES"]
    for model in sizes.models[:MANY]:
        parts = [f"{plain(model.name)}: parameters {size(model.parameter_bytes)}"]
        parts += [f"gradients up to {size(model.gradient_bytes)}", f"buffers {size(model.buffer_bytes)}"]
        lines += joined(parts, width)
    lines += [
        f"  {plain(optimizer)}'s state {'about ' if state_bytes is not None else ''}{size(state_bytes)}"
        for optimizer, state_bytes in sizes.optimizers
    ]
    lines.append(f"  outputs of a step, modules without submodules: {size(sizes.step_bytes)}")
    name_width = max(min(34, width - 44), 12)
    lines += ["", f"  {pad('OUTPUTS OF', name_width)} {'in all':>9} {'a call':>9} {'calls':>7}"]
    for module in sizes.returned[:MANY]:
        shown = _name(module.name, module.type, name_width)
        largest = size(module.largest_bytes)
        lines.append(f"  {shown} {size(module.output_bytes):>9} {largest:>9} {count(module.calls):>7}")
    if len(sizes.returned) > MANY:
        lines.append(f"  {len(sizes.returned) - MANY} more")
    return lines
