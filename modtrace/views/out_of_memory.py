"""A failed allocation as text."""

from __future__ import annotations

from itertools import pairwise

from modtrace.analysis.out_of_memory import Autopsy
from modtrace.text import plain
from modtrace.units import percent, size


def autopsy_lines(found: Autopsy, *, width: int) -> list[str]:
    """What was asked for, what there was, what the step had made, and what would help; at most ten lines or so."""
    said = found.told
    facts = [
        ("asked for", said.asked),
        ("free", said.free),
        ("of", said.capacity),
        ("allocated", said.allocated),
        ("reserved but unused", said.unused),
        ("held outside of torch", said.elsewhere),
    ]
    known = [f"{name} {size(value)}" for name, value in facts if value is not None]
    lines = _list("OUT OF MEMORY  ", known, width, between="   ", indent=2)
    if said.unused is not None and said.allocated and said.unused > said.allocated // 4:
        lines.append(
            f"    fragmented: {percent(said.unused, said.allocated + said.unused)}% of what is reserved is unused"
        )
    freed = ", freed again without gradients" if found.kept is False else ""
    held = [f"outputs made in this step {size(found.made_bytes)}{freed}"]
    if found.parameter_bytes is not None:
        held.append(f"parameters {size(found.parameter_bytes)}")
    if found.gradients:
        held.append(f"gradients up to {size(found.trainable_bytes)}")
    held += [
        f"{plain(kind)}'s state {'?' if state is None else f'about {size(state)}'}"
        for kind, state in found.optimizers
    ]
    lines += _list("estimated from shapes:", held, width)
    if found.made:
        most = [f"{plain(one.name)} {size(one.output_bytes)} in {one.calls}" for one in found.made[:3]]
        lines += _list("largest outputs:", most, width)
    if len(found.ends_bytes) > 1:
        lines += _list("allocated at the end of the steps before:", list(map(size, found.ends_bytes)), width)
    if len(found.steps_bytes) > 1:
        lines += _list("outputs a step, the last failed:", list(map(size, found.steps_bytes)), width)
    return [line.rstrip() for line in lines] + [*_list("->", _remedy(found).split(" "), width, between=" ")]


def _list(head: str, words: list[str], width: int, *, between: str = ", ", indent: int = 4) -> list[str]:
    """Words behind a head, on as many lines as they need."""
    lines, used = [f"{' ' * indent}{head}"], indent + len(head)
    for at, word in enumerate(words):
        text = word + (between.removesuffix(" ") if at < len(words) - 1 else "")
        if used + 1 + len(text) > width and used > 6:
            lines.append("     ")
            used = 5
        lines[-1] += f" {text}"
        used += 1 + len(text)
    return lines


def _remedy(found: Autopsy) -> str:
    said, asked, made = found.told, found.told.asked, found.made_bytes
    growing = len(found.steps_bytes) > 2 and all(
        later > 1.2 * earlier
        for earlier, later in zip(found.steps_bytes[:-2], found.steps_bytes[1:-1], strict=True)
    )
    if _holds_more(found.ends_bytes):
        return "each step leaves more memory held than the one before: free what is kept of them (.item(), .detach())"
    if growing:
        return "inputs grow from step to step: limit their length"
    if said.unused is not None and asked is not None and said.unused >= asked:
        return "what is reserved but unused would do: set PYTORCH_ALLOC_CONF=expandable_segments:True"
    if said.elsewhere is not None and said.capacity is not None and 2 * said.elsewhere > said.capacity:
        return f"{size(said.elsewhere)} of the device are held outside of torch: end what holds that"
    if asked is not None and asked > 16 * max(made, 1):
        return "what was asked for is far more than this step's outputs: look at the sizes given to the failing module"
    if found.kept is False:
        return "use a smaller batch: without gradients there is nothing to checkpoint"
    if found.block is not None:
        return f"checkpoint {plain(found.block)} (torch.utils.checkpoint), or use a smaller batch"
    return "use a smaller batch, or checkpoint the block with the largest outputs"


def _holds_more(ends: list[int]) -> bool:
    """Whether what was held at the ends of steps grew by a hundredth or more with each, gradients and state not meant,
    which the first steps make.
    """
    later = ends[1:]
    return len(later) > 2 and all(b - a > a // 100 for a, b in pairwise(later))
