"""What the public DataFrames hold: every column of `Trace.calls`, `.modules`, `.steps`, `.kernels`, `.syncs`, `.compilations`,
`.series`.

Parquet and JSON files carry it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Shown:
    """A column as people see it.

    type: its pandas dtype; `list` for a list of texts.
    doc: what it is.
    null: when it is null; "" for never.
    """

    name: str
    type: str
    doc: str
    null: str = ""

    @property
    def unit(self) -> str:
        """`ns`, `bytes`, `FLOP`, `FLOP/s`; "" for what has none."""
        if self.name.endswith(("flops", "flops_at_least")):
            return "FLOP"
        if self.name == "flops_per_s":
            return "FLOP/s"
        tail = self.name.rpartition("_")[2]
        return tail if tail in ("ns", "bytes") else ""


_OF_FUNCTION = "not a function recorded with `--functions`"
_UNWATCHED = "memory was not watched all the while (`--memory`)"
_UNREAD = "memory was not watched (`--memory`), and no counters of a GPU tell"
_UNKEPT = "not counted (`--saved`), or not all of it could be"
_SHAPELESS = "a shape is not known, or it never returned"
_NO_END = "its end was not seen"
_NO_DEVICE = "no device worked on it, or its time is not known"
_UNCOUNTED = "a part was not counted, has no formula or depends on more than the inputs"
_NOTHING_COUNTED = "nothing was counted in the trace"
_NEVER = "it never ran, or no time is known"

CALLS: Final = (
    Shown("parent", "int64", "the call around it, -1 for none"),
    Shown("kind", "category", "module, function, backward, phase, span or step"),
    Shown("name", "category", 'FQN of the module (`encoder.layers.0`), "" for a root module, `layers.0.(ReLU)` for one that is in no tree; name of a phase, span or function'),
    Shown("type", "category", 'class of the module, of the optimizer or loader of a phase; "" where there is none'),
    Shown("root", "category", "the root that `name` is in: the variable or attribute that held it when it was first called (`G`, `Lit.encoder`), else its class; `#2` behind the second of a name", "of no module"),
    Shown("module_id", "Int64", "row in `modules`: one number a module instance, or several short-lived ones that cannot be told apart", "of no module"),
    Shown("step", "Int64", "the training step it started in", "outside of steps"),
    Shown("phase", "category", "data, h2d, forward, eval, loss, backward, optimizer, zero_grad, or recompute (made again by checkpointing)", "outside of phases"),
    Shown("rank", "int64", "process of a distributed job, 0 otherwise"),
    Shown("thread", "int64", "number of the thread in its process"),
    Shown("depth", "int64", "how many rows it is inside of"),
    Shown("start_ns", "int64", "when it started, since the start of recording in its process"),
    Shown("duration_ns", "Int64", "wall time with everything inside", _NO_END),
    Shown("self_ns", "Int64", "without the calls inside it and without modtrace's own time", "a time it is made of is unknown"),
    Shown("device_ns", "Int64", "time on the device, gaps between kernels included", _NO_DEVICE),
    Shown("inputs", "category", "signature of what it was given: `f32[2,225,15,15]`", "unknown, or not a call of code"),
    Shown("outputs", "category", "signature of what it returned", "it did not return, or not a call of code"),
    Shown("memory_delta_bytes", "Int64", "by how much held memory changed, devices added up", _UNREAD),
    Shown("memory_peak_bytes", "Int64", "most that was held while it ran", _UNREAD),
    Shown("saved_bytes", "Int64", "what it kept for the backward with everything inside it, the most of several backwards", _UNKEPT),
    Shown("flops", "Int64", "of everything inside; a multiply-accumulate is two", _UNCOUNTED),
    Shown("flops_at_least", "Int64", "the same without the parts that are not known: a lower bound, `flops` where that is known", _NOTHING_COUNTED),
    Shown("status", "category", "ok; raised; aborted by a BaseException; unfinished when recording ended"),
    Shown("error", "category", "`Type: first line` of the exception that went through", "none did"),
    Shown("last_call", "int64", "its last descendant: what is inside are the rows up to it"),
    Shown("forward", "Int64", "of a backward: the call whose backward it is", "not a backward"),
    Shown("tracer_ns", "Int64", "modtrace's own time in it, outside of the calls inside", _NO_END),
    Shown("hooks_ns", "Int64", "time of the module's own forward hooks", "it has none"),
    Shown("output_replaced", "boolean", "an own forward hook changed the output", "it has none"),
    Shown("source_file", "category", "of a function: file of the code that calls it", _OF_FUNCTION),
    Shown("source_line", "Int64", "its line", _OF_FUNCTION),
)  # fmt: skip

MODULES: Final = (
    Shown("name", "str", 'FQN, the first in `named_modules` order; "" for a root module'),
    Shown("type", "str", "class"),
    Shown("root", "str", "name of the root that it is in, as in `calls`"),
    Shown("instances", "int64", "how many modules, one after another: short-lived ones that cannot be told apart share a row"),
    Shown("calls", "int64", "how often it ran; calls made again by checkpointing are not in it"),
    Shown("total_ns", "Int64", "all its forward, backward and recompute time with everything inside", _NEVER),
    Shown("self_ns", "Int64", "the same without the calls inside", _NEVER),
    *(
        Shown(f"{way}_{name}_ns", "Int64", doc.format(way=way), _NEVER)
        for way in ("forward", "backward")
        for name, doc in (
            ("total", "{way} time of all calls, without what checkpointing computes again"),
            ("self", "the same without the calls inside"),
            ("mean", "{way} time a step: mean over the steps `in_statistics`; over all where it ran in none of these"),
            ("p50", "median of these"),
            ("p95", "95th percentile"),
            ("max", "the longest"),
        )
    ),
    Shown("recompute_calls", "int64", "calls made again by checkpointing"),
    Shown("recompute_ns", "Int64", "their time, and that of checkpoints that computed again below its backward", "there are none"),
    Shown("forward_flops", "Int64", "of all its calls", _UNCOUNTED),
    Shown("backward_flops", "Int64", "of all its backwards, without what checkpointing computes again in them", _UNCOUNTED),
    Shown("forward_flops_at_least", "Int64", "`forward_flops` without the parts that are not known", f"{_NOTHING_COUNTED}, or it never ran"),
    Shown("backward_flops_at_least", "Int64", "`backward_flops` without the parts that are not known", f"{_NOTHING_COUNTED}, or it had no backward"),
    Shown("device_total_ns", "Int64", "time on the device, where known", _NO_DEVICE),
    Shown("forward_device_ns", "Int64", "of forward", _NO_DEVICE),
    Shown("backward_device_ns", "Int64", "of backward", _NO_DEVICE),
    Shown("operations", "list", "its own operations in one call, in order; empty where not counted"),
    Shown("uncounted", "list", "those that have no formula"),
    Shown("inputs", "category", "the signature it was given most often", "it never ran"),
    Shown("outputs", "category", "the signature it returned most often", "it never returned"),
    Shown("parameter_count", "Int64", "elements of all parameters in it and below, shared ones once", "unknown (lazy modules)"),
    Shown("parameter_bytes", "Int64", "their size", "unknown"),
    Shown("trainable_count", "Int64", "elements of those that require grad", "unknown"),
    Shown("buffer_count", "Int64", "elements of all buffers", "unknown"),
    Shown("buffer_bytes", "Int64", "their size", "unknown"),
    Shown("gradient_bytes", "Int64", "what gradients of its trainable parameters take, from shapes", "unknown"),
    Shown("optimizer_state_bytes", "Int64", "an estimate of the optimizer's state for them", "unknown, or the optimizer's class does not tell"),
    Shown("output_bytes", "Int64", "of all outputs of its calls, from shapes", _SHAPELESS),
    Shown("output_max_bytes", "Int64", "of the largest output of one call", _SHAPELESS),
    Shown("saved_bytes", "Int64", "what its calls kept for one backward, the most of those that were counted", _UNKEPT),
    Shown("training", "boolean", "its mode when first seen", "unknown"),
    Shown("extra_repr", "str", "torch's own description (`in_features=3, ...`)", "the class is not torch's"),
    Shown("type_module", "str", "Python module of the class"),
    Shown("source_file", "str", "file of the class's forward", "unknown"),
    Shown("source_line", "Int64", "its line", "unknown"),
    Shown("overrides_call", "bool", "the class has a `__call__` of its own, so calls may have gone unseen"),
    Shown("aliases", "list", "the other FQNs of a shared module"),
)  # fmt: skip

STEPS: Final = (
    Shown("call", "Int64", "its row in `calls`", "a span lies across its border"),
    Shown("type", "category", "class of its first root module", "it has none"),
    Shown("ends", "category", "what ended it: mark, optimizer, forward (of the next) or root (each root call is a step)"),
    Shown("rank", "int64", "as in `calls`"),
    Shown("thread", "int64", "the thread whose time is divided"),
    Shown("start_ns", "int64", "since the start of recording in its process"),
    Shown("duration_ns", "Int64", "the sum of the ten columns below", _NO_END),
    *(
        Shown(f"{name}_ns", "int64", doc)
        for name, doc in (
            ("data", "waiting for the loader"),
            ("h2d", "copies to a device"),
            ("forward", "forward of root modules"),
            ("eval", "their forward without a backward"),
            ("loss", "from the last forward to the backward"),
            ("backward", "backward"),
            ("optimizer", "`step` of optimizers"),
            ("zero_grad", "`zero_grad`"),
            ("other_threads", "none of these, while calls ran on other threads"),
            ("other", "the rest"),
        )
    ),
    Shown("whole", "bool", "it came to its end"),
    Shown("calls", "int64", "module calls in it"),
    Shown("recomputed", "int64", "those made again by checkpointing"),
    Shown("samples", "Int64", "first dimension of the batches it was trained on, added up", "not certain: a module was called on several batches between two backward passes, or on other threads"),
    Shown("tokens", "Int64", "the first two dimensions, where that is integers", "`samples` is, or it is no integers"),
    Shown("flops", "Int64", "of module calls and backwards", _UNCOUNTED),
    Shown("flops_at_least", "Int64", "the same without the parts that are not known", _NOTHING_COUNTED),
    Shown("uncounted", "list", "what is not known: operations without a formula, classes of modules; empty where nothing is missing"),
    Shown("flops_per_s", "Int64", "that over the duration", "`flops` is"),
    Shown("mfu", "Float64", "share of what the devices reach, 0 to 1", "not measured with `modtrace info --device`"),
    Shown("device_ns", "Int64", "for how long the busiest device worked", _NO_DEVICE),
    Shown("device_idle_ns", "Int64", "for how long it did not, up to the next step", _NO_DEVICE),
    Shown("memory_allocated_bytes", "Int64", "what the allocators of devices had given out when it ended", "their counters were not read"),
    Shown("memory_reserved_bytes", "Int64", "what they had reserved then", "their counters were not read"),
    Shown("memory_peak_bytes", "Int64", "most that was held in it", _UNREAD),
    Shown("counted", "bool", "operations were counted in it, so its times include that"),
    Shown("in_statistics", "bool", "it counts in every statistic: it came to its end, is not the first, and nothing was counted or watched in it, as far as there are others"),
    Shown("status", "category", "as in `calls`"),
    Shown("error", "category", "as in `calls`", "none ended it"),
)  # fmt: skip

KERNELS: Final = (
    Shown("call", "Int64", "row in `calls`", "outside of any"),
    Shown("module", "category", "FQN of its module", "of no module"),
    Shown("type", "category", "class of its module", "of no module"),
    Shown("step", "Int64", "its step", "outside of steps"),
    Shown("backward", "bool", "in the backward of the module"),
    Shown("operator", "category", "`aten::addmm`, a kernel's name"),
    Shown("kind", "category", "operator, kernel, memcpy or memset"),
    Shown("device", "category", "cpu, cuda:0"),
    Shown("count", "int64", "how often it ran there"),
    Shown("total_ns", "int64", "their time: on the host without operators inside, on a device all of it"),
)  # fmt: skip

SYNCS: Final = (
    Shown("call", "int64", "row in `calls`"),
    Shown("module", "category", "FQN of its module", "of no module"),
    Shown("type", "category", "class of its module", "of no module"),
    Shown("step", "Int64", "its step", "outside of steps"),
    Shown("what", "category", "item, nonzero, mask, copy to host and so on"),
    Shown("device", "category", "what is waited for; cpu for what would wait if its tensors were on a device"),
    Shown("source_file", "category", "file of the code that waits", "unknown"),
    Shown("source_line", "Int64", "its line", "unknown"),
    Shown("count", "int64", "how often"),
    Shown("size_bytes", "Int64", "of copies and values, all together", "unknown"),
)  # fmt: skip

COMPILATIONS: Final = (
    Shown("rank", "int64", "as in `calls`"),
    Shown("step", "Int64", "the step in which it began", "outside of steps"),
    Shown("start_ns", "int64", "since the start of recording in its process"),
    Shown("duration_ns", "Int64", "how long it took; that of a backward may lie inside that of its forward", "unknown"),
    Shown("compile", "str", "torch's own number: `0/1` is the second graph of the first function"),
    Shown("function", "str", "the function that was compiled", "of a backward"),
    Shown("source_file", "str", "its file", "of a backward"),
    Shown("source_line", "Int64", "its line", "of a backward"),
    Shown("backward", "bool", "it was the graph of a backward"),
    Shown("operations", "Int64", "operations in the graph", "unknown"),
    Shown("recompiled", "bool", "there was a graph already, which did not fit"),
    Shown("reason", "str", "why it did not fit", "the first graph of a function, or with `--no-messages`"),
    Shown("error", "str", "why nothing could be compiled", "it could"),
)  # fmt: skip

MODULE_SERIES: Final = (
    Shown("rank", "int64", "as in `calls`"),
    Shown("calls", "int64", "forward calls in the step"),
    Shown("forward_ns", "Int64", "their time", "none ran, or a time is unknown"),
    Shown("backward_ns", "Int64", "time of their backwards, without what checkpointing computes again in them", "none ran, or a time is unknown"),
    Shown("recompute_ns", "Int64", "time of what checkpointing computes again, in its calls and below its backward", "none was, or a time is unknown"),
    Shown("self_ns", "Int64", "all of it without the calls inside", "a time is unknown"),
    Shown("device_ns", "Int64", "all of it on the device", "not known for each call"),
    Shown("flops", "Int64", "of all of it", _UNCOUNTED),
    Shown("flops_at_least", "Int64", "the same without the parts that are not known", _NOTHING_COUNTED),
    Shown("memory_peak_bytes", "Int64", "most that was held while it ran, forward or backward", _UNWATCHED),
)  # fmt: skip

MEMORY_SERIES: Final = (
    Shown("rank", "int64", "as in `calls`"),
    Shown("device", "category", "cpu, cuda:0"),
    Shown("at_ns", "int64", "since the start of recording in its process"),
    Shown("step", "Int64", "the step of that moment", "outside of steps"),
    Shown("held_bytes", "int64", "held from this moment until the next row: the sum of the columns below"),
    *(
        Shown(f"{name}_bytes", "int64", f"of that, {doc}")
        for name, doc in (
            ("parameter", "parameters"),
            ("buffer", "buffers"),
            ("gradient", "gradients"),
            ("optimizer_state", "state of optimizers"),
            ("activation", "made in a forward and kept for the backward"),
            ("temporary", "all else"),
        )
    ),
)  # fmt: skip

FRAMES: Final = {
    "calls": CALLS,
    "modules": MODULES,
    "steps": STEPS,
    "kernels": KERNELS,
    "syncs": SYNCS,
    "compilations": COMPILATIONS,
    "series(name)": MODULE_SERIES,
    "series()": MEMORY_SERIES,
}
"""The columns by what makes them."""

INDEX: Final = {"calls": "call", "modules": "module_id", "steps": "step", "series(name)": "step"}
"""Names of the indexes that mean something."""
