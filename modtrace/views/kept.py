"""What was kept for backward, and what shapes tell of memory, as text."""

from __future__ import annotations

from collections.abc import Sequence

from modtrace.analysis.held import Held
from modtrace.analysis.kept import Keeper, Kept
from modtrace.text import fit, pad, plain
from modtrace.units import count, percent, plural, size

MANY = 12


def kept_lines(kept: Kept | None, *, width: int) -> list[str]:
    """What autograd kept when the largest backward began, by module; nothing where it was not counted."""
    if kept is None:
        return []
    most = f" (the most of {kept.backwards} backwards)" if kept.backwards > 1 else ""
    step = f" of step {kept.step}" if kept.step >= 0 else ""
    least = "" if kept.whole else "at least "
    lines = [f"  kept for backward{step}: {least}{size(kept.saved_bytes)}{most}"]
    if not kept.whole:
        lines.append(f"  not counted: {_uncounted(kept.packed, kept.uncounted)}")
    name_width = max(min(34, width - 44), 12)
    lines += ["", f"  {pad('KEPT FOR BACKWARD BY', name_width)} {'bytes':>9} {'%':>5} {'pieces':>7}"]
    for keeper in kept.keepers[:MANY]:
        lines.append(_keeper(keeper, kept.saved_bytes, name_width))
    rest = kept.keepers[MANY:]
    if rest:
        held = sum(one.saved_bytes for one in rest)
        more = pad(f"{len(rest)} more", name_width)
        lines.append(f"  {more} {size(held):>9} {percent(held, kept.saved_bytes):>5}")
    return lines


def _keeper(keeper: Keeper, total: int, name_width: int) -> str:
    shown = _name(keeper.name or "outside of modules", keeper.type, name_width)
    lacking = _uncounted(keeper.packed, keeper.uncounted)
    held = size(keeper.saved_bytes) if keeper.storages or not lacking else "?"
    share = percent(keeper.saved_bytes, total) if keeper.storages else ""
    more = f"  not counted: {lacking}" if lacking else ""
    return f"  {shown} {held:>9} {share:>5} {count(keeper.storages):>7}{more}"


def _uncounted(packed: int, names: Sequence[str]) -> str:
    parts = [f"{plural(packed, 'tensor')} that hooks hold (checkpoint)"] if packed else []
    return ", ".join([*parts, *(plain(name) for name in names[:4])])


def _name(name: str, kind: str, width: int) -> str:
    more = f"  {plain(kind)}" if kind not in ("", name) else ""
    return pad(fit(f"{fit(plain(name), width, keep_end=True)}{more}", width), width)


def kept_summary(kept: Kept | None) -> list[str]:
    """A line for the summary, nothing where it was not counted."""
    if kept is None:
        return []
    largest = next((one for one in kept.keepers if one.saved_bytes), None)
    where = f", most by {plain(largest.name) or 'what is outside of modules'}" if largest is not None else ""
    least = "" if kept.whole else "at least "
    step = f" (step {kept.step})" if kept.step >= 0 else ""
    return [f"  kept      {least}{size(kept.saved_bytes)} for backward{where}{step}"]


def held_lines(found: Held, *, width: int) -> list[str]:
    """What models hold and modules return, as far as shapes tell."""
    lines = [
        "  FROM SHAPES",
        *(
            f"  {plain(model.name)}: parameters {size(model.parameter_bytes)}   "
            f"gradients up to {size(model.gradient_bytes)}   buffers {size(model.buffer_bytes)}"
            for model in found.models[:MANY]
        ),
        *(
            f"  {plain(kind)}'s state {'about ' if held is not None else ''}{size(held)}"
            for kind, held in found.optimizers
        ),
        f"  outputs of a step, modules without submodules: {size(found.step_bytes)}",
    ]
    name_width = max(min(34, width - 44), 12)
    lines += ["", f"  {pad('OUTPUTS OF', name_width)} {'in all':>9} {'a call':>9} {'calls':>7}"]
    for one in found.returned[:MANY]:
        shown = _name(one.name, one.type, name_width)
        largest = size(one.largest_bytes)
        lines.append(f"  {shown} {size(one.output_bytes):>9} {largest:>9} {count(one.calls):>7}")
    if len(found.returned) > MANY:
        lines.append(f"  {len(found.returned) - MANY} more")
    return lines
