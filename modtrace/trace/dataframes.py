"""The columns of every public DataFrame: types, units, meaning. Parquet and JSON files carry it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from modtrace.errors import UsageError
from modtrace.text import plain
from modtrace.trace.schema import CALL_COLUMNS, TABLES


@dataclass(frozen=True)
class PublicColumn:
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
_UNREAD_VALUES = "values were not read (`--values`)"
_SHAPELESS = "a shape is not known, or it never returned"
_NO_END = "its end was not seen"
_NO_COPIES = "a device is used: its copies are in the phase that makes them"
_UNREAD_COUNTERS: Final = "their counters were not read"
_UNASKED: Final = "not a root call or phase, before the first work of a device, or while a graph is captured"
_NO_DEVICE = "no device worked on it, or its time is not known"
_UNCOUNTED = "a part was not counted, has no formula or depends on more than the inputs"
_NOTHING_COUNTED = "nothing was counted in the trace"
_NEVER = "it never ran, or no time is known"

_CALLS: Final = (
    PublicColumn("parent", "int64", "the call around it, -1 for none"),
    PublicColumn("kind", "category", "module, function, backward, phase, span or step"),
    PublicColumn("name", "category", 'FQN of the module (`encoder.layers.0`), "" for a root module, `layers.0.(ReLU)` for one that is in no tree; name of a phase, span or function'),
    PublicColumn("type", "category", 'class of the module, of the optimizer or loader of a phase; "" where there is none'),
    PublicColumn("root", "category", "the root that `name` is in: the variable or attribute that held it when it was first called (`G`, `Lit.encoder`), else its class; `#2` behind the second of a name", "of no module"),
    PublicColumn("module_id", "Int64", "row in `modules`: one number a module instance, or several short-lived ones that cannot be told apart", "of no module"),
    PublicColumn("step", "Int64", "the training step it started in", "outside of steps"),
    PublicColumn("phase", "category", "data, h2d, forward, eval, loss, backward, optimizer, zero_grad, or recompute (made again by checkpointing)", "outside of phases"),
    PublicColumn("rank", "int64", "process of a distributed job, 0 otherwise"),
    PublicColumn("thread", "int64", "number of the thread in its process"),
    PublicColumn("depth", "int64", "how many rows it is inside of"),
    PublicColumn("start_ns", "int64", "when it started, since the start of recording in its process"),
    PublicColumn("duration_ns", "Int64", "wall time with everything inside", _NO_END),
    PublicColumn("self_ns", "Int64", "without the calls inside it and without modtrace's own time", "a time it is made of is unknown"),
    PublicColumn("device_ns", "Int64", "time on the device of its input, gaps between kernels included; work on a second device is not in it", _NO_DEVICE),
    PublicColumn("device_dry", "boolean", "the device had done all that it was given before when the call began", _UNASKED),
    PublicColumn("inputs", "category", "signature of what it was given: `f32[2,225,15,15]`", "unknown, or not a call of code"),
    PublicColumn("outputs", "category", "signature of what it returned", "it did not return, or not a call of code"),
    PublicColumn("memory_delta_bytes", "Int64", "by how much held memory changed, devices added up", _UNREAD),
    PublicColumn("memory_peak_bytes", "Int64", "most that was held while it ran", _UNREAD),
    PublicColumn("memory_retries", "Int64", "of a root call, phase or span: how often an allocator emptied its cache because the device had no more memory", _UNREAD_COUNTERS),
    PublicColumn("memory_device_allocs", "Int64", "of the same: how often an allocator took memory from its device (cudaMalloc, mapping)", _UNREAD_COUNTERS),
    PublicColumn("saved_bytes", "Int64", "what it kept for the backward with everything inside it, the most of several backwards", _UNKEPT),
    PublicColumn("flops", "Int64", "of everything inside; a multiply-accumulate is two", _UNCOUNTED),
    PublicColumn("flops_at_least", "Int64", "the same without the parts that are not known: a lower bound, `flops` where that is known", _NOTHING_COUNTED),
    PublicColumn("output_minimum", "Float64", "the least value in its outputs; NaN where any is", _UNREAD_VALUES),
    PublicColumn("output_maximum", "Float64", "the greatest; NaN where any is", _UNREAD_VALUES),
    PublicColumn("output_absolute_maximum", "Float64", "the greatest absolute value in them; NaN where any is", _UNREAD_VALUES),
    PublicColumn("gradient_absolute_maximum", "Float64", "of a forward: the greatest absolute value in the gradients that arrived at its backward; NaN where any is", f"{_UNREAD_VALUES}, or none arrived"),
    PublicColumn("status", "category", "ok; raised; aborted by a BaseException; unfinished when recording ended"),
    PublicColumn("error", "category", "`Type: first line` of the exception that went through", "none did"),
    PublicColumn("last_call", "int64", "its last descendant: what is inside are the rows up to it"),
    PublicColumn("forward", "Int64", "of a backward: the call whose backward it is", "not a backward"),
    PublicColumn("tracer_ns", "Int64", "modtrace's own time in it, outside of the calls inside", _NO_END),
    PublicColumn("hooks_ns", "Int64", "time of the module's own forward hooks", "it has none"),
    PublicColumn("output_replaced", "boolean", "an own forward hook changed the output", "it has none"),
    PublicColumn("source_file", "category", "of a function: file of the code that calls it", _OF_FUNCTION),
    PublicColumn("source_line", "Int64", "its line", _OF_FUNCTION),
)  # fmt: skip

_PANDAS_TYPES: Final = {"int64": "Int64", "int32": "Int64", "bool": "boolean"}


def _with_recorded(described: tuple[PublicColumn, ...]) -> tuple[PublicColumn, ...]:
    """Columns of `calls` in their order; one that is not described here is as the schema describes it."""
    known = {column.name: column for column in described}
    for column in TABLES["calls"]:
        if column.name in CALL_COLUMNS and column.name not in known:
            known[column.name] = PublicColumn(column.name, _PANDAS_TYPES[column.type], column.doc, "not recorded")
    return tuple(known[name] for name in CALL_COLUMNS)


CALLS: Final = _with_recorded(_CALLS)

MODULES: Final = (
    PublicColumn("name", "str", 'FQN, the first in `named_modules` order; "" for a root module'),
    PublicColumn("type", "str", "class"),
    PublicColumn("root", "str", "name of the root that it is in, as in `calls`"),
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("instances", "int64", "how many modules, one after another: short-lived ones that cannot be told apart share a row"),
    PublicColumn("calls", "int64", "how often it ran; calls made again by checkpointing are not in it"),
    PublicColumn("total_ns", "Int64", "all its forward, backward and recompute time with everything inside", _NEVER),
    PublicColumn("self_ns", "Int64", "the same without the calls inside", _NEVER),
    *(
        PublicColumn(f"{way}_{name}_ns", "Int64", doc.format(way=way), _NEVER)
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
    PublicColumn("recompute_calls", "int64", "calls made again by checkpointing"),
    PublicColumn("recompute_ns", "Int64", "their time, and that of checkpoints that computed again below its backward", "there are none"),
    PublicColumn("forward_flops", "Int64", "of all its calls", _UNCOUNTED),
    PublicColumn("backward_flops", "Int64", "of all its backwards, without what checkpointing computes again in them", _UNCOUNTED),
    PublicColumn("forward_flops_at_least", "Int64", "`forward_flops` without the parts that are not known", f"{_NOTHING_COUNTED}, or it never ran"),
    PublicColumn("backward_flops_at_least", "Int64", "`backward_flops` without the parts that are not known", f"{_NOTHING_COUNTED}, or it had no backward"),
    PublicColumn("device_total_ns", "Int64", "time on the device, where known", _NO_DEVICE),
    PublicColumn("forward_device_ns", "Int64", "of forward", _NO_DEVICE),
    PublicColumn("backward_device_ns", "Int64", "of backward", _NO_DEVICE),
    PublicColumn("operations", "list", "its own operations in one call, in order; empty where not counted"),
    PublicColumn("uncounted", "list", "those that have no formula"),
    PublicColumn("inputs", "category", "the signature it was given most often", "it never ran"),
    PublicColumn("outputs", "category", "the signature it returned most often", "it never returned"),
    PublicColumn("parameter_count", "Int64", "elements of all parameters in it and below, shared ones once", "unknown (lazy modules)"),
    PublicColumn("parameter_bytes", "Int64", "their size", "unknown"),
    PublicColumn("trainable_count", "Int64", "elements of those that require grad", "unknown"),
    PublicColumn("buffer_count", "Int64", "elements of all buffers", "unknown"),
    PublicColumn("buffer_bytes", "Int64", "their size", "unknown"),
    PublicColumn("gradient_bytes", "Int64", "what gradients of its trainable parameters take, from shapes", "unknown"),
    PublicColumn("optimizer_state_bytes", "Int64", "an estimate of the optimizer's state for them", "unknown, or the optimizer's class does not tell"),
    PublicColumn("output_bytes", "Int64", "of all outputs of its calls, from shapes", _SHAPELESS),
    PublicColumn("output_max_bytes", "Int64", "of the largest output of one call", _SHAPELESS),
    PublicColumn("saved_bytes", "Int64", "what its calls kept for one backward, the most of those that were counted", _UNKEPT),
    PublicColumn("training", "boolean", "its mode when first seen", "unknown"),
    PublicColumn("extra_repr", "str", "torch's own description (`in_features=3, ...`)", "the class is not torch's"),
    PublicColumn("type_module", "str", "Python module of the class"),
    PublicColumn("source_file", "str", "file of the class's forward", "unknown"),
    PublicColumn("source_line", "Int64", "its line", "unknown"),
    PublicColumn("overrides_call", "bool", "the class has a `__call__` of its own, so calls may have gone unseen"),
    PublicColumn("aliases", "list", "the other FQNs of a shared module"),
)  # fmt: skip

_BESIDES: Final = "it was recorded besides, because it was remarkable (`--keep`)"
STEPS: Final = (
    PublicColumn("call", "Int64", "its row in `calls`", "a span lies across its border"),
    PublicColumn("type", "category", "class of its first root module", "it has none"),
    PublicColumn("ends", "category", "what ended it: mark, optimizer, forward (of the next) or root (each root call is a step)"),
    PublicColumn("rank", "int64", "as in `calls`; of several ranks in the index instead"),
    PublicColumn("thread", "int64", "the thread whose time is divided"),
    PublicColumn("start_ns", "int64", "since the start of recording in its process"),
    PublicColumn("duration_ns", "Int64", "the sum of the ten columns below", _NO_END),
    *(
        PublicColumn(f"{name}_ns", "Int64" if name == "h2d" else "int64", doc, _NO_COPIES if name == "h2d" else "")
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
    PublicColumn("whole", "bool", "it came to its end"),
    PublicColumn("every", "Int64", "of so many steps around it one is recorded and has a row; 1 for all", _BESIDES),
    PublicColumn("calls", "int64", "module calls in it"),
    PublicColumn("recomputed", "int64", "those made again by checkpointing"),
    PublicColumn("samples", "Int64", "first dimension of the batches it was trained on, added up", "not certain: a module was called on several batches between two backward passes, or on other threads"),
    PublicColumn("tokens", "Int64", "the first two dimensions, where that is integers", "`samples` is, or it is no integers"),
    PublicColumn("flops", "Int64", "of module calls and backwards", _UNCOUNTED),
    PublicColumn("flops_at_least", "Int64", "the same without the parts that are not known", _NOTHING_COUNTED),
    PublicColumn("uncounted", "list", "what is not known: operations without a formula, classes of modules; empty where nothing is missing"),
    PublicColumn("flops_per_s", "Int64", "that over the duration", "`flops` is"),
    PublicColumn("mfu", "Float64", "share of what the devices reach, 0 to 1", "not measured with `modtrace device`"),
    PublicColumn("device_ns", "Int64", "for how long the busiest device worked", _NO_DEVICE),
    PublicColumn("device_idle_ns", "Int64", "for how long it did not, up to the next step", _NO_DEVICE),
    PublicColumn("device_dry_share", "Float64", "share of its root calls and phases at whose start the device had run dry, 0 to 1", _UNASKED),
    PublicColumn("memory_allocated_bytes", "Int64", "what the allocators of devices had given out when it ended", _UNREAD_COUNTERS),
    PublicColumn("memory_reserved_bytes", "Int64", "what they had reserved then", _UNREAD_COUNTERS),
    PublicColumn("memory_retries", "Int64", "how often an allocator emptied its cache in it because the device had no more memory", _UNREAD_COUNTERS),
    PublicColumn("memory_device_allocs", "Int64", "how often an allocator took memory from its device in it (cudaMalloc, mapping)", _UNREAD_COUNTERS),
    PublicColumn("memory_peak_bytes", "Int64", "most that was held in it", _UNREAD),
    PublicColumn("counted", "bool", "operations were counted in it, so its times include that"),
    PublicColumn("in_statistics", "bool", "it counts in every statistic: it came to its end, is not the first, and nothing was counted or watched in it, as far as there are others"),
    PublicColumn("status", "category", "as in `calls`"),
    PublicColumn("error", "category", "as in `calls`", "none ended it"),
)  # fmt: skip

KERNELS: Final = (
    PublicColumn("call", "Int64", "row in `calls`", "outside of any"),
    PublicColumn("module", "category", "FQN of its module", "of no module"),
    PublicColumn("type", "category", "class of its module", "of no module"),
    PublicColumn("step", "Int64", "its step", "outside of steps"),
    PublicColumn("backward", "bool", "in the backward of the module"),
    PublicColumn("operator", "category", "`aten::addmm`, a kernel's name"),
    PublicColumn("kind", "category", "operator, kernel, memcpy or memset"),
    PublicColumn("device", "category", "cpu, cuda:0"),
    PublicColumn("count", "int64", "how often it ran there"),
    PublicColumn("total_ns", "int64", "their time: on the host without operators inside, on a device all of it"),
    PublicColumn("size_bytes", "Int64", "bytes of copies and fills on a device", "it is neither, or not known"),
)  # fmt: skip

SYNCS: Final = (
    PublicColumn("call", "int64", "row in `calls`"),
    PublicColumn("module", "category", "FQN of its module", "of no module"),
    PublicColumn("type", "category", "class of its module", "of no module"),
    PublicColumn("step", "Int64", "its step", "outside of steps"),
    PublicColumn("what", "category", "item, nonzero, mask, copy to host and so on"),
    PublicColumn("device", "category", "what is waited for; cpu for what would wait if its tensors were on a device"),
    PublicColumn("source_file", "category", "file of the code that waits", "unknown"),
    PublicColumn("source_line", "Int64", "its line", "unknown"),
    PublicColumn("count", "int64", "how often"),
    PublicColumn("size_bytes", "Int64", "of copies and values, all together", "unknown"),
)  # fmt: skip

COMPILATIONS: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("step", "Int64", "the step in which it began", "outside of steps"),
    PublicColumn("start_ns", "int64", "since the start of recording in its process"),
    PublicColumn("duration_ns", "Int64", "how long it took; that of a backward may lie inside that of its forward", "unknown"),
    PublicColumn("compile", "str", "torch's own number: `0/1` is the second graph of the first function"),
    PublicColumn("function", "str", "the function that was compiled", "of a backward"),
    PublicColumn("source_file", "str", "its file", "of a backward"),
    PublicColumn("source_line", "Int64", "its line", "of a backward"),
    PublicColumn("backward", "bool", "it was the graph of a backward"),
    PublicColumn("operations", "Int64", "operations in the graph", "unknown"),
    PublicColumn("recompiled", "bool", "there was a graph already, which did not fit"),
    PublicColumn("reason", "str", "why it did not fit", "the first graph of a function, or with `--no-messages`"),
    PublicColumn("error", "str", "why nothing could be compiled", "it could"),
)  # fmt: skip

MODULE_SERIES: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("every", "Int64", "of so many steps around this one is recorded and has a row; 1 for all", _BESIDES),
    PublicColumn("calls", "int64", "forward calls in the step; of a phase, span or function its rows"),
    PublicColumn("total_ns", "Int64", "all of its time with everything inside: forward, backward and recompute", "a time is unknown"),
    PublicColumn("forward_ns", "Int64", "their time", "none ran, or a time is unknown"),
    PublicColumn("backward_ns", "Int64", "time of their backwards, without what checkpointing computes again in them", "none ran, or a time is unknown"),
    PublicColumn("recompute_ns", "Int64", "time of what checkpointing computes again, in its calls and below its backward", "none was, or a time is unknown"),
    PublicColumn("self_ns", "Int64", "all of it without the calls inside", "a time is unknown"),
    PublicColumn("device_ns", "Int64", "all of it on the device", "not known for each call"),
    PublicColumn("flops", "Int64", "of all of it", _UNCOUNTED),
    PublicColumn("flops_at_least", "Int64", "the same without the parts that are not known", _NOTHING_COUNTED),
    PublicColumn("memory_peak_bytes", "Int64", "most that was held while it ran, forward or backward", _UNWATCHED),
    PublicColumn("output_minimum", "Float64", "the least value in its outputs; NaN where any is", _UNREAD_VALUES),
    PublicColumn("output_maximum", "Float64", "the greatest; NaN where any is", _UNREAD_VALUES),
    PublicColumn("output_absolute_maximum", "Float64", "the greatest absolute value in them; NaN where any is", _UNREAD_VALUES),
    PublicColumn("gradient_absolute_maximum", "Float64", "the greatest absolute value in the gradients that arrived at its backward; NaN where any is", f"{_UNREAD_VALUES}, or none arrived"),
)  # fmt: skip

MEMORY_SERIES: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("device", "category", "cpu, cuda:0"),
    PublicColumn("at_ns", "int64", "since the start of recording in its process"),
    PublicColumn("step", "Int64", "the step of that moment", "outside of steps"),
    PublicColumn("held_bytes", "int64", "held from this moment until the next row: the sum of the columns below"),
    *(
        PublicColumn(f"{name}_bytes", "int64", f"of that, {doc}")
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

FOLDED: Final = (
    PublicColumn("name", "str", "`h.*.mlp.c_fc` for repeats of one module; of a root its name; of a phase, span or function its own; `modtrace itself` and so on for what is no call"),
    PublicColumn("type", "str", 'class, of a function where it is called (`norm.py:12`); "" where there is none'),
    PublicColumn("instances", "Int64", "how many modules", "of no module"),
    PublicColumn("calls", "Int64", "forward calls, without what checkpointing computes again; of anything else its rows", "it is no call"),
    PublicColumn("self_ns", "Int64", "wall time without that of its children and of modtrace, in all steps of the window together", "it is known of none of its calls"),
    PublicColumn("forward_ns", "Int64", "the part of that in forward", "of no module, or not known"),
    PublicColumn("backward_ns", "Int64", "the part in backward, with what checkpointing computes again", "of no module, or not known"),
    PublicColumn("device_ns", "Int64", "time on the device without that of its children", _NO_DEVICE),
    PublicColumn("share", "Float64", "`self_ns` of the time of the window, 0 to 1; where times on a device are known `device_ns` of the sum of all. What threads ran at once is taken off in a row of its own, below 0", "nothing was recorded, or its time is not known"),
    PublicColumn("output", "str", "the signature that it returned most often", "it returned none"),
    PublicColumn("of_module", "bool", "it is a module, or repeats of one"),
    PublicColumn("rank", "int64", "as in `calls`"),
)  # fmt: skip

FINDINGS: Final = (
    PublicColumn("rule", "str", "name of the rule that found it"),
    PublicColumn("text", "str", "what it is, with its number"),
    PublicColumn("remedy", "str", "what to do"),
    PublicColumn("won_ns", "Int64", "time at stake, in all steps that count together; the largest come first", "it is about results, or no time follows"),
    PublicColumn("wrong", "bool", "it is about results, not time: these come before all others"),
)  # fmt: skip

GAPS: Final = (
    PublicColumn("rank", "Int64", "as in `calls`", "of the whole trace"),
    PublicColumn("start_ns", "Int64", "when it began, since the start of recording in its process", "no one moment"),
    PublicColumn("reason", "str", "what was not recorded, or is lost, and why"),
    PublicColumn("lost_calls", "Int64", "calls known to be lost", "how many is not known"),
)  # fmt: skip

OPERATIONS: Final = (
    PublicColumn("name", "str", "`h.*.mlp.c_fc` for repeats of one module, as in `folded`"),
    PublicColumn("type", "str", "class"),
    PublicColumn("instances", "int64", "how many modules"),
    PublicColumn("calls", "int64", "calls in the whole recording, with those that checkpointing made again"),
    PublicColumn("flops", "Int64", "of one call with everything inside it", _UNCOUNTED),
    PublicColumn("flops_at_least", "Int64", "the same without the parts that are not known", _NOTHING_COUNTED),
    PublicColumn("counted", "bool", "its operations were counted in a call"),
    PublicColumn("operations", "list", "its own operations in one call, in order; runs of equal ones as `add x3`; empty where not counted"),
    PublicColumn("uncounted", "list", "those that may multiply matrices and have no formula"),
)  # fmt: skip

HOLDERS: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("device", "str", "cpu, cuda:0"),
    PublicColumn("peak_ns", "int64", "the moment of the peak, since the start of recording in its process"),
    PublicColumn("step", "Int64", "its step", "outside of steps"),
    PublicColumn("category", "str", "parameter, buffer, gradient, optimizer_state, activation or temporary"),
    PublicColumn("name", "str", "the module or phase whose calls allocated it, repeats as one", "outside of any"),
    PublicColumn("type", "str", "its class", "outside of any"),
    PublicColumn("backward", "bool", "allocated in its backward"),
    PublicColumn("held_bytes", "int64", "what it holds at the peak"),
    PublicColumn("allocations", "int64", "in how many allocations"),
    PublicColumn("share", "Float64", "of all that is held on the device at the peak, 0 to 1"),
)  # fmt: skip

_NOT_READ: Final = "it could not be read: see `reason`"

VALUES: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("step", "Int64", "number of the step", "outside of steps"),
    PublicColumn("kind", "str", "output, input, gradient, loss, parameter, parameter_gradient or batch"),
    PublicColumn("name", "str", 'name of the module, as in `calls`; "" where the tensor is of no module'),
    PublicColumn("type", "str", "its class"),
    PublicColumn("path", "str", "where in the structure (`0`, `logits`); of a parameter its name in the module"),
    PublicColumn("call", "int64", "row of `calls`: the module call; of a gradient the forward call; of a parameter the optimizer's step"),
    PublicColumn("dtype", "str", "type of the tensor"),
    PublicColumn("elements", "Int64", "number of elements", "the tensor cannot be asked"),
    PublicColumn("minimum", "Float64", "the least element; NaN where any is NaN", _NOT_READ),
    PublicColumn("maximum", "Float64", "the greatest element; NaN where any is NaN", _NOT_READ),
    PublicColumn("absolute_maximum", "Float64", "the greatest absolute value", _NOT_READ),
    PublicColumn("norm", "Float64", "2-norm", "not asked for (`--values-with norm`)"),
    PublicColumn("hash", "Int64", "a hash of the bits of all elements", "not asked for (`--values-with hash`), or not read"),
    PublicColumn("reason", "str", "why it was not read", "it was read"),
)  # fmt: skip

NONFINITE: Final = (
    PublicColumn("verdict", "str", "fault; skipped: a GradScaler left the step out; allowed: in a module of `--nan-allow`; vanished: nothing further on shows it"),
    PublicColumn("step", "Int64", "number of the step", "outside of steps"),
    PublicColumn("where", "str", "part of the step and module: `forward   log (SafeLog)`"),
    PublicColumn("name", "str", 'the module that made it; "" where none did'),
    PublicColumn("type", "str", "its class"),
    PublicColumn("tensor", "str", "the first tensor that is not finite: output, `input 0`, `weight.grad`"),
    PublicColumn("is_nan", "bool", "NaN; else infinities"),
    PublicColumn("from_loader", "bool", "a DataLoader handed it out"),
    PublicColumn("operation", "str", "operation in the module's forward", "not asked for (`--nan-pin`), or not known"),
    PublicColumn("line", "str", "`file:line` of the program", "not known"),
    PublicColumn("call", "int64", "row of `calls`"),
)  # fmt: skip

_NO_STEPS_COUNT: Final = "no step of it counts in statistics"

RANKS: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("attempt", "int64", "0 for its first start, 1 for the second"),
    PublicColumn("role", "int64", "the same for ranks of the same modules and shapes of parameters: stages of a pipeline have roles of their own"),
    PublicColumn("state", "str", '`exit 0`, `killed`, `still running`, ...; "" where it was recorded from within and ended well'),
    PublicColumn("failed", "bool", "it ended by an exit status other than 0, an exception, an interrupt or a kill"),
    PublicColumn("error", "str", "class and message of the exception that ended it", "none did"),
    PublicColumn("place", "str", "module or phase in which it failed, or that was open when it was killed, or is open now", "none"),
    PublicColumn("step", "Int64", "number of the step that it was in, or is in now", "none has begun"),
    PublicColumn("open_ns", "Int64", "for how long that place had been open when something was last written", "nothing is open"),
    PublicColumn("ended_unix_ns", "Int64", "when it ended, of one that was killed when it last wrote: since 1970", "it runs, or that is not known"),
    PublicColumn("steps", "int64", "steps that began"),
    PublicColumn("whole_steps", "int64", "steps that came to their end"),
    PublicColumn("step_ns", "Int64", "median of a step, of those that count in statistics", _NO_STEPS_COUNT),
    PublicColumn("data_ns", "Int64", "median of its wait for data", _NO_STEPS_COUNT),
    PublicColumn("forward_ns", "Int64", "median of its forward", _NO_STEPS_COUNT),
    PublicColumn("backward_ns", "Int64", "median of its backward; ranks wait for each other at its end", _NO_STEPS_COUNT),
    PublicColumn("optimizer_ns", "Int64", "median of its optimizer's step", _NO_STEPS_COUNT),
    PublicColumn("other_ns", "Int64", "median of all further time of it", _NO_STEPS_COUNT),
    PublicColumn("modules_ns", "Int64", "median of the time that its modules took themselves, forward and backward, without wrappers such as DistributedDataParallel", _NO_STEPS_COUNT),
    PublicColumn("wait_ns", "Int64", "median over the same steps of the time in which a collective that it had launched waited for other ranks", "no collectives are recorded, or not of all ranks by one clock, or these are sums"),
    PublicColumn("late", "boolean", "the others wait for it", "it could not be held against peers"),
)  # fmt: skip

_NO_TIMES: Final = "none ran, or a time is unknown"
_NO_STEP: Final = "its time is known in none of the steps"

ROLLUPS: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("first_step", "int64", "first step of the window, as steps were counted while the program ran"),
    PublicColumn("end_step", "int64", "the first behind it"),
    PublicColumn("from_ns", "int64", "when the first of them began, since the start of recording in its process"),
    PublicColumn("to_ns", "int64", "when the last of them ended"),
    PublicColumn("kind", "category", "module; phase; step: the steps themselves, from one end of a step to the next"),
    PublicColumn("name", "category", "as in `modules`; of a phase its name. `forward` and `eval` are root calls with and without gradients, criteria among them. Of several ranks a module that no other holds, called inside others alone, is \"\"", "it is of the steps"),
    PublicColumn("type", "category", "class of the module", "it is of no module"),
    PublicColumn("root", "category", "as in `modules`", "it is of no module"),
    PublicColumn("module_id", "Int64", "row of `modules`", "it is of no module"),
    PublicColumn("calls", "int64", "forward calls in all steps of the window; of the steps how many have a time; of a phase how often it ran"),
    *(
        column
        for side, doc, own in (
            ("forward", "of phases and steps their time", "of the phase `backward` it holds waiting for other ranks"),
            ("backward", "without what checkpointing computes again", "with what checkpointing computes again"),
        )
        for column in (
            PublicColumn(f"{side}_ns", "Int64", f"time of its {side}s in all steps of the window; {doc}", _NO_TIMES),
            PublicColumn(f"{side}_p50_ns", "Int64", "median of that time in each step, within 1 %", _NO_STEP),
            PublicColumn(f"{side}_p95_ns", "Int64", "95th percentile, likewise", _NO_STEP),
            PublicColumn(f"{side}_p99_ns", "Int64", "99th percentile, likewise", _NO_STEP),
            PublicColumn(f"{side}_max_ns", "Int64", "the most in one step", _NO_STEP),
            PublicColumn(f"{side}_self_ns", "Int64", f"own time of its {side}s in all steps of the window, without module calls inside; {own}", _NO_TIMES),
        )
    ),
)  # fmt: skip

_NOT_ALL: Final = "not all ranks of its group have a row, or their clocks are not one"
COLLECTIVES: Final = (
    PublicColumn("rank", "int64", "as in `calls`"),
    PublicColumn("attempt", "int64", "0 for the first start of its rank, 1 for the second"),
    PublicColumn("step", "Int64", "the step in which it was launched", "outside of steps"),
    PublicColumn("call", "Int64", "the innermost call that was open on its thread when it was launched", "none was"),
    PublicColumn("group", "str", "torch's own name of its process group"),
    PublicColumn("description", "str", "default_pg, mesh_dp: what its group is for", "the program does not say"),
    PublicColumn("sequence", "Int64", "its number in its group, the same in all ranks", "it is between two ranks"),
    PublicColumn("operation", "str", "all_reduce, all_gather, barrier ..."),
    PublicColumn("start_ns", "int64", "when this rank launched it, since the start of recording in its process"),
    PublicColumn("late_ns", "Int64", "how long after the first rank of its group", _NOT_ALL),
    PublicColumn("wait_ns", "Int64", "from then until the last rank of its group launched it; the program may have gone on meanwhile", _NOT_ALL),
    PublicColumn("ended", "boolean", "it was over, well or by an error, when it was last looked at", "torch does not say"),
    PublicColumn("seen_ns", "int64", "when that was, since the start of recording in its process"),
    PublicColumn("ranks", "int64", "so many ranks have a row of it"),
    PublicColumn("group_ranks", "Int64", "so many ranks its group has", "not known"),
    PublicColumn("input_bytes", "Int64", "of the tensors that this rank gave", "not known"),
    PublicColumn("output_bytes", "Int64", "of those that it got", "not known"),
)  # fmt: skip

FRAMES: Final = {
    "calls": CALLS,
    "modules": MODULES,
    "steps": STEPS,
    "folded": FOLDED,
    "findings": FINDINGS,
    "gaps": GAPS,
    "operations": OPERATIONS,
    "holders": HOLDERS,
    "kernels": KERNELS,
    "syncs": SYNCS,
    "compilations": COMPILATIONS,
    "values": VALUES,
    "nonfinite": NONFINITE,
    "ranks": RANKS,
    "collectives": COLLECTIVES,
    "rollups": ROLLUPS,
    "series(name)": MODULE_SERIES,
    "series()": MEMORY_SERIES,
}
"""The columns by what makes them."""

INDEX: Final = {"calls": "call", "modules": "module_id", "steps": "step", "series(name)": "step"}
"""Names of the indexes that mean something. `steps` of several ranks have (`rank`, `step`)."""

EXPORTED: Final = {
    **{name: name for name in FRAMES if not name.startswith("series")},
    "memory": "series()",
}
"""Names of the tables that can be written to a file -> what they are in FRAMES."""


def known_table(name: str) -> str:
    """The name of a table that can be written to a file.

    Raises:
        UsageError: there is no such table.
    """
    if name not in EXPORTED:
        raise UsageError(unknown_table(name, EXPORTED))
    return name


def exported_columns(table: str) -> tuple[PublicColumn, ...]:
    """The columns of a table in a file: those of its index in front of its others."""
    frame = EXPORTED[table]
    index = (PublicColumn(INDEX[frame], "int64", _INDEX_DOCS[frame]),) if frame in INDEX else ()
    return (*index, *FRAMES[frame])


_INDEX_DOCS: Final = {
    "calls": "order of start; what `parent`, `last_call` and `forward` point at",
    "modules": "number of the module; what `calls.module_id` points at",
    "steps": "number of the step in its rank",
}


def columns_of(name: str) -> tuple[PublicColumn, ...]:
    """The columns of a DataFrame.

    Raises:
        UsageError: there is no such DataFrame.
    """
    if name not in FRAMES:
        raise UsageError(unknown_table(name, FRAMES))
    return FRAMES[name]


def unknown_table(name: str, known: Iterable[str]) -> str:
    """The message about a name that no table has."""
    near = get_close_matches(name, list(known), 1)
    return f"there is no table {plain(name)!r}" + (
        f"; did you mean {near[0]}?" if near else f": it is one of {', '.join(known)}"
    )


def units(columns: tuple[PublicColumn, ...]) -> dict[str, str]:
    """Column -> unit, for those that have one."""
    return {column.name: column.unit for column in columns if column.unit}
