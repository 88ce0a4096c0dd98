"""A failed allocation as text."""

from __future__ import annotations

from itertools import pairwise

from modtrace.analysis.out_of_memory import Autopsy
from modtrace.text import plain
from modtrace.units import percent, size


def autopsy_lines(autopsy: Autopsy, *, width: int) -> list[str]:
    """The size asked for, the sizes the allocator told, outputs of the step, and a remedy; at most ten lines or so."""
    message = autopsy.told
    facts = [
        ("asked for", message.asked),
        ("free", message.free),
        ("of", message.capacity),
        ("allocated", message.allocated),
        ("reserved but unused", message.unused),
        ("held outside of torch", message.elsewhere),
    ]
    known = [f"{name} {size(value)}" for name, value in facts if value is not None]
    lines = _list("OUT OF MEMORY  ", known, width, between="   ", indent=2)
    if message.unused is not None and message.allocated and message.unused > message.allocated // 4:
        share = percent(message.unused, message.allocated + message.unused)
        lines.append(f"    fragmented: {share}% of what is reserved is unused")
    freed = ", freed again without gradients" if autopsy.kept is False else ""
    parts = [f"outputs made in this step {size(autopsy.made_bytes)}{freed}"]
    if autopsy.parameter_bytes is not None:
        parts.append(f"parameters {size(autopsy.parameter_bytes)}")
    if autopsy.gradients:
        parts.append(f"gradients up to {size(autopsy.trainable_bytes)}")
    parts += [
        f"{plain(optimizer)}'s state {'?' if state is None else f'about {size(state)}'}"
        for optimizer, state in autopsy.optimizers
    ]
    lines += _list("estimated from shapes:", parts, width)
    if autopsy.made:
        most = [
            f"{plain(module.name)} {size(module.output_bytes)} in {module.calls}"
            for module in autopsy.made[:3]
        ]
        lines += _list("largest outputs:", most, width)
    if len(autopsy.ends_bytes) > 1:
        lines += _list(
            "allocated at the end of the steps before:", list(map(size, autopsy.ends_bytes)), width
        )
    if len(autopsy.steps_bytes) > 1:
        lines += _list("outputs a step, the last failed:", list(map(size, autopsy.steps_bytes)), width)
    return [line.rstrip() for line in lines] + [*_list("->", _remedy(autopsy).split(" "), width, between=" ")]


def _list(head: str, words: list[str], width: int, *, between: str = ", ", indent: int = 4) -> list[str]:
    """Words behind a head, on as many lines as they need."""
    lines, used = [f"{' ' * indent}{head}"], indent + len(head)
    for index, word in enumerate(words):
        text = word + (between.removesuffix(" ") if index < len(words) - 1 else "")
        if used + 1 + len(text) > width and used > 6:
            lines.append("     ")
            used = 5
        lines[-1] += f" {text}"
        used += 1 + len(text)
    return lines


def _remedy(autopsy: Autopsy) -> str:
    message, asked, made_bytes = autopsy.told, autopsy.told.asked, autopsy.made_bytes
    growing = len(autopsy.steps_bytes) > 2 and all(
        later > 1.2 * earlier
        for earlier, later in zip(autopsy.steps_bytes[:-2], autopsy.steps_bytes[1:-1], strict=True)
    )
    if _holds_more(autopsy.ends_bytes):
        return "each step leaves more memory held than the one before: free what is kept of them (.item(), .detach())"
    if growing:
        return "inputs grow from step to step: limit their length"
    if message.unused is not None and asked is not None and message.unused >= asked:
        return f"what is reserved but unused would do: set {autopsy.setting}=expandable_segments:True"
    if (
        message.elsewhere is not None
        and message.capacity is not None
        and 2 * message.elsewhere > message.capacity
    ):
        return f"{size(message.elsewhere)} of the device are held outside of torch: end what holds that"
    if asked is not None and asked > 16 * max(made_bytes, 1):
        return "what was asked for is far more than this step's outputs: look at the sizes given to the failing module"
    if autopsy.kept is False:
        return "use a smaller batch: without gradients there is nothing to checkpoint"
    if autopsy.block is not None:
        return f"checkpoint {plain(autopsy.block)} (torch.utils.checkpoint), or use a smaller batch"
    return "use a smaller batch, or checkpoint the block with the largest outputs"


def _holds_more(ends: list[int]) -> bool:
    """True where bytes held at the ends of steps grew by a hundredth or more with each. The first step is left out: it
    makes gradients and the optimizer's state.
    """
    later = ends[1:]
    return len(later) > 2 and all(b - a > a // 100 for a, b in pairwise(later))
