"""The tables of a trace: tables, columns, units, codes, limits. The one place that names a column.

A trace is a directory `NAME.mtrace` with `run.json` and one folder a process; a folder holds `process.json`,
one Arrow IPC stream a table (`calls.arrows`, ...) and, after a clean end, `end.json`.

A format has a major and a minor version. A minor version adds tables and nullable columns, nothing else: a reader fills
what is missing with null, leaves out what it does not know, and refuses only another major version.

Version history
    1.0  calls of modules, functions, backwards, phases and spans; FLOPs, memory, kernels, device times, waits.
    1.1  what a recording's failures were raised by, compilations, parameters of optimizers, the steps asked for.
    1.2  ranges of values, where values that are not finite began, sums of modules over windows of steps, steps that
         were left out, calls of allocations, collectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

VERSION: Final = 1
"""The major version."""
MINOR_VERSION: Final = 2
FORMAT: Final = "modtrace"
SUFFIX: Final = ".mtrace"

RUN_FILE: Final = "run.json"
PROCESS_FILE: Final = "process.json"
END_FILE: Final = "end.json"
STOP_FILE: Final = "stopped.json"
"""Written at once when a recording ends before the program does."""
STREAM_SUFFIX: Final = ".arrows"
LATEST_SUFFIX: Final = ".latest"
"""A stream of one batch that is replaced as a whole: rows that are not final yet."""
FULL_REQUEST_FILE, FULL_ANSWER_FILE = "full-request.json", "full-answer.json"
"""The next steps in full, asked for while a process runs, and what it says to that."""
OUTPUT_FILE: Final = "output.txt"
"""Output of the script, where it was run with --live."""

KINDS: Final = ("module", "function", "backward", "phase", "span", "step")
"""`calls.kind` is an index into this."""
MODULE, FUNCTION, BACKWARD, PHASE, SPAN, STEP = range(6)

PHASES: Final = ("data", "h2d", "forward", "eval", "loss", "backward", "optimizer", "zero_grad")
"""Names of phases. `forward`, `eval` and `loss` are not recorded: they follow from the rest."""

RETURNED_GRADIENTS: Final = "autograd.grad"
"""The type of a backward phase that returned gradients and added none up into `.grad`."""

NO_GRAD, EVALUATING, IN_BACKWARD, COUNTED = 1, 2, 4, 8
"""Bits of `calls.mode`: grad mode was off; the module was in eval mode; autograd was running backward; operations were
counted, so the times of the call and of those inside it include that.
"""

CATEGORIES: Final = ("parameter", "buffer", "gradient", "optimizer_state", "activation", "temporary")
"""Purposes that memory is held for. `activation` and `temporary` are not recorded: they follow from when it was freed."""
PARAMETER, BUFFER, GRADIENT, OPTIMIZER_STATE, ACTIVATION, TEMPORARY = range(6)

OPERATOR_KINDS: Final = ("operator", "kernel", "memcpy", "memset")
"""Kinds of rows in the table `operators`: an operator of torch on the host; a kernel, a copy or a fill on a device."""
OPERATOR, KERNEL, MEMORY_COPY, MEMORY_SET = range(4)

VALUE_KINDS: Final = ("output", "input", "gradient", "loss", "parameter", "parameter_gradient", "batch")
"""Tensors whose values are read: an output or an input of a module call; the gradient that arrives at a module's backward;
the tensor that backward begins with; a parameter; its gradient when an optimizer steps; a batch of a DataLoader.
"""
OUTPUT, INPUT, GRADIENT, LOSS, PARAMETER_VALUE, PARAMETER_GRADIENT, BATCH = range(7)

VERDICTS: Final = ("fault", "skipped", "allowed", "vanished")
"""Kinds of rows in `nonfinite`: a value that is not finite and should be; one for which a GradScaler left a step out; one
in a module that --nan-allow names; one that nothing further on shows.
"""
FAULT, SKIPPED, ALLOWED, VANISHED = range(4)

MOMENTS: Final = ("start", "end", "reset", "recount", "recording")
"""When memory was read: when a call began or ended, before the program reset the peak or the total, when recording began
or ended.
"""
AT_START, AT_END, AT_RESET, AT_RECOUNT, AT_RECORDING = range(5)

COPY_TO_HOST, COPY_TO_DEVICE = "copy to host", "copy to device"
"""Values of `syncs.what` beside the names of operations."""

STATUSES: Final = ("ok", "raised", "aborted", "unfinished")
"""`calls.status` is an index into this. aborted: left by a BaseException; unfinished: open when recording ended."""

OK, RAISED, ABORTED, UNFINISHED = range(4)

THREAD_SHIFT: Final = 40
"""A stored call id is `thread << THREAD_SHIFT | n`, n counting the calls of that thread in order of their start."""

TEXT_LIMIT: Final = 512
"""Characters kept of any name or repr; longer ones end in `...`."""
MESSAGE_LIMIT: Final = 300
"""Characters kept of the first line of an exception's message."""
MEMORY_MESSAGE_LIMIT: Final = 700
"""The same of one that speaks of allocating memory."""
OUT_OF_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")
"""Parts of the message of torch's RuntimeError, one of them there when an allocation has failed."""


SHORT_DTYPES: Final[dict[str, str]] = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16",
    "int64": "i64", "int32": "i32", "int16": "i16", "int8": "i8",
    "uint64": "u64", "uint32": "u32", "uint16": "u16", "uint8": "u8",
    "complex128": "c128", "complex64": "c64", "complex32": "c32", "bool": "bool",
}  # fmt: skip
"""Short names of dtypes in signatures; others are written in full."""

DTYPE_BYTES: Final[dict[str, int]] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1,
    "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1, "complex128": 16, "complex64": 8, "complex32": 4, "bool": 1,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "quint8": 1, "qint8": 1, "qint32": 4,
}  # fmt: skip
"""Bytes of an element."""


@dataclass(frozen=True)
class Column:
    """One column: `type` is int8/int32/int64/double/bool/string/list<string>/list<int64>/tensors; unit in the name, `doc` for people.

    since: the minor version that added it. Such a column is nullable: in older traces it is null.
    """

    name: str
    type: str
    doc: str
    nullable: bool = False
    since: int = 0


TENSOR_FIELDS: Final = (
    Column("path", "string", "where in the structure: `0`, `0.mask`, `kwargs.mask`, `logits`; a parameter's own name"),
    Column("shape", "list<int64>", "sizes; a null element is a symbolic size; null where the tensor has no shape", True),
    Column("dtype", "string", "torch's name without `torch.`: float32"),
    Column("device", "string", "cpu, cuda:0, meta"),
    Column("layout", "string", "strided, sparse_coo, ..."),
    Column("requires_grad", "bool", "whether autograd tracked it"),
)
"""Fields of one element of a `tensors` column (a list of structs)."""

TABLES: Final[dict[str, tuple[Column, ...]]] = {
    # One row an execution: of Module.__call__, of a phase, of a span; written when it has ended. Rows of one batch are sorted by `call`;
    # a call open over a flush comes in a later batch than its children.
    "calls": (
        Column("call", "int64", "id, order of start within its thread (see THREAD_SHIFT)"),
        Column("parent", "int64", "id of the enclosing call, -1 for a root call"),
        Column("last_call", "int64", "id of the last descendant (itself if none): a subtree is one range of ids"),
        Column("kind", "int8", "index into KINDS"),
        Column("module", "int32", "row key in `modules`; null for what is no module's", True),
        Column("root", "int32", "module at the top of the tree that `module` is named in; see `names`", True),
        Column("label", "int32", "row key in `labels`: the name of a phase, span or function; null for a module", True),
        Column("forward", "int64", "of a backward: id of the call whose backward it is", True),
        Column("mode", "int8", "of a module call with no module around it or inside a backward, and of a backward phase that was counted: see NO_GRAD", True),
        Column("depth", "int32", "number of rows that this one is inside of"),
        Column("start_ns", "int64", "nanoseconds since the start of recording in this process"),
        Column("duration_ns", "int64", "inclusive wall time; null when the end was not seen", True),
        Column("self_ns", "int64", "duration without child calls and without tracer_ns", True),
        Column("tracer_ns", "int64", "modtrace's own time inside this call and outside its children", True),
        Column("hooks_ns", "int64", "time of the module's own forward hooks; null when it has none", True),
        Column("output_replaced", "bool", "an own forward hook changed the output; null without own hooks", True),
        Column("inputs", "int32", "row key in `signatures`; null when unknown", True),
        Column("outputs", "int32", "row key in `signatures`; null when it did not return", True),
        Column("status", "int8", "index into STATUSES"),
        Column("error", "int32", "row key in `errors` when an exception passed through", True),
    ),
    # Calls still open at a flush, each written once and before the calls of that flush. Those without a row in `calls`
    # never ended; those behind ids that are in neither table are left out by readers.
    "open": (
        Column("call", "int64", "as in calls"),
        Column("parent", "int64", "as in calls"),
        Column("kind", "int8", "as in calls"),
        Column("module", "int32", "as in calls", True),
        Column("root", "int32", "as in calls", True),
        Column("label", "int32", "as in calls", True),
        Column("forward", "int64", "as in calls", True),
        Column("mode", "int8", "as in calls", True),
        Column("depth", "int32", "as in calls"),
        Column("start_ns", "int64", "as in calls"),
        Column("inputs", "int32", "as in calls (positional arguments only)", True),
    ),
    # One row a module instance; a later row with the same key replaces the earlier (lazy modules change). Short-lived modules
    # that cannot be told apart and never lived at the same time, such as those made in a loop or in forward, share a row.
    "modules": (
        Column("module", "int32", "key, one a module instance"),
        Column("variable", "string", "variable or attribute by which the code around its first call reached it (`G`, `Lit.encoder`, `nets[0]`); null where it was not called as a root, or nothing holds it", True, since=1),
        Column("instances", "int64", "how many modules, one after another, the row is of", True, since=1),
        Column("type", "string", "class name"),
        Column("type_module", "string", "Python module of the class"),
        Column("parameter_count", "int64", "elements of all parameters in the subtree, shared ones once", True),
        Column("parameter_bytes", "int64", "their bytes", True),
        Column("trainable_count", "int64", "elements of those that require grad", True),
        Column("trainable_bytes", "int64", "their bytes", True),
        Column("buffer_count", "int64", "elements of all buffers in the subtree, shared ones once", True),
        Column("buffer_bytes", "int64", "their bytes", True),
        Column("parameters", "tensors", "the module's own parameters (not its children's)"),
        Column("training", "bool", "the mode when first seen; null when it cannot be read", True),
        Column("extra_repr", "string", "torch's own description (`in_features=3, ...`); null where it is not torch's", True),
        Column("source_file", "string", "file of the class's forward", True),
        Column("source_line", "int32", "its line", True),
        Column("overrides_call", "bool", "the class has a __call__ of its own, so calls may have gone unseen"),
    ),
    # A module's names in one tree; `root` is the module the names are relative to. A later row replaces an earlier.
    "names": (
        Column("root", "int32", "row key in modules: the top of the tree"),
        Column("module", "int32", "row key in modules"),
        Column("name", "string", 'FQN, the first in named_modules order; "" for the root itself'),
        Column("aliases", "list<string>", "the other FQNs of a shared module"),
    ),
    # What optimizers have, as seen in some of their steps (the first, 2nd, 4th, 8th ..., and at the end): one row a
    # parameter of a module itself; a later row replaces an earlier one. A row without a module counts what optimizers
    # have that is no parameter of a module seen.
    "parameters": (
        Column("module", "int32", "row key in `modules`", True),
        Column("name", "string", "its name in the module"),
        Column("parameter", "int64", "the same number for the same tensor: shared ones have several rows", True),
        Column("elements", "int64", "of a row without a module: elements of all those tensors", True),
        Column("requires_grad", "bool", "whether autograd tracked it when it was last seen"),
        Column("in_optimizer", "bool", "it is in an optimizer"),
        Column("had_gradient", "bool", "it had a gradient when an optimizer stepped"),
        Column("changed", "bool", "it was changed in place between two looks, or that is not known"),
    ),
    # What torch compiled, as torch itself keeps it: one row a graph and each time that something was compiled again.
    "compilations": (
        Column("start_ns", "int64", "nanoseconds since the start of recording"),
        Column("duration_ns", "int64", "how long it took; that of a backward may lie inside that of its forward", True),
        Column("compile", "string", "torch's own number: `0/1` is the second graph of the first function"),
        Column("function", "string", "the function that was compiled; null for a backward", True),
        Column("source_file", "string", "its file", True),
        Column("source_line", "int32", "its line", True),
        Column("backward", "bool", "it was the graph of a backward"),
        Column("operations", "int32", "operations in the graph", True),
        Column("recompiled", "bool", "there was a graph already, which did not fit"),
        Column("reason", "string", "why it did not fit; null with --no-messages", True),
        Column("error", "string", "why nothing could be compiled", True),
    ),
    # The process groups of torch.distributed in which collectives were launched: one row each.
    "process_groups": (
        Column("process_group", "int32", "key in its process, torch's own number"),
        Column("name", "string", "torch's own name, the same in all its ranks; one that was made again has it again"),
        Column("description", "string", "default_pg, mesh_dp: what it is for; undefined where the program says nothing"),
        Column("backend", "string", "gloo", True),
        Column("ranks", "list<int64>", "its ranks, as numbered in the whole job; null where not known", True),
    ),
    # Collectives, as torch's Flight Recorder keeps them: one row each. Those under way, and the last one of each group that has
    # ended, are in a file of their own too, which is replaced; where both have a row this one counts.
    "collectives": (
        Column("collective", "int64", "key in its process, in the order in which they were launched; numbers that are left out are not recorded"),
        Column("process_group", "int32", "row key in `process_groups` of the same process"),
        Column("sequence", "int64", "its number in its group, the same in all its ranks; null for what is sent from one rank to another", True),
        Column("operation", "string", "all_reduce, all_gather, barrier ..."),
        Column("at_ns", "int64", "nanoseconds since the start of recording: when it was launched"),
        Column("thread", "int32", "thread that launched it, as the threads of calls; null for one that ran no module", True),
        Column("ended", "bool", "it was over, well or by an error, at `seen_ns`; null where torch does not say", True),
        Column("seen_ns", "int64", "nanoseconds since the start of recording: when it was last looked at"),
        Column("input_bytes", "int64", "of the tensors that this rank gave; null where not known", True),
        Column("output_bytes", "int64", "of those that it got, likewise", True),
    ),
    # Each distinct structure of inputs or outputs once.
    "signatures": (
        Column("signature", "int32", "key"),
        Column("text", "string", "as shown: f32[2,225,15,15], (f32[2,3], mask=bool[2,3])"),
        Column("tensors", "tensors", "its tensors in order"),
        Column("opaque", "bool", "it holds something that was not looked into, on which work may depend", True, since=1),
    ),
    # The name of what is no module; one row a distinct one, one an optimizer, one a place in the code that calls a function.
    "labels": (
        Column("label", "int32", "key"),
        Column("name", "string", "of a phase: one of PHASES; of a span: the user's; of a function: torch.pow, Tensor.view, F.relu"),
        Column("type", "string", "class that it belongs to (SGD, DataLoader); empty where there is none"),
        Column("source_file", "string", "of a function: file of the code that calls it", True),
        Column("source_line", "int32", "its line", True),
        Column("source_offset", "int32", "the instruction there, which tells calls on one line apart", True),
    ),
    # What calls compute, counted in a few of them: those of the same module with the same inputs compute the same, where
    # those that were counted did and nothing else decides. Where a `whole` row stands, every call inside has been counted,
    # and one without a row of its own ran no operation itself.
    "work": (
        Column("call", "int64", "row key in `calls`: a module call, a backward or a phase that operations were counted in"),
        Column("whole", "bool", "all that happened inside the call was counted, not only its own operations"),
        Column("flops", "int64", "of its own operations, those of calls inside left out; a multiply-accumulate is two"),
        Column("unsteady", "bool", "it read a value after it had drawn a few random numbers: chance may decide what it computes", True, since=1),
        Column("uncounted", "list<string>", "its operations that may multiply matrices and have no formula"),
        Column("operations", "list<string>", "its own operations in order, as torch's dispatcher names them"),
    ),
    # Time on the device, between events recorded on its stream at both ends of a call; written when the device has come to
    # them, which may be after or before the row of the call. Gaps between kernels are in it. It is the time on one device, that
    # of the call's input: what a model does on a second one is in no row, but in those of calls whose input is there.
    # In backward a row is on the device of its forward.
    "device_times": (
        Column("call", "int64", "row key in `calls`: a module call, a backward or a phase"),
        Column("device", "string", "cuda:0: that of the call's input, of a phase that its thread used last, of a backward that of its forward"),
        Column("start_ns", "int64", "by the device's clock, about nanoseconds since the start of recording; null for a call inside another one on the same stream", True),
        Column("device_ns", "int64", "from the end of what was on the stream before the call to the end of what the call put there"),
    ),
    # Whether a device had run dry when a root call or a phase began: asked before that one's first event, not while a graph
    # is captured. A row a call that asked; none before the first work on a stream, and where the device was not known yet.
    "device_starts": (
        Column("call", "int64", "row key in `calls`: a module call with no module around it, or a phase"),
        Column("device", "string", "cuda:0"),
        Column("dry", "bool", "the device had done all that was on the stream in use"),
    ),
    # What the allocator of a device says of itself, read at both ends of root calls, phases and spans, not of every call;
    # nothing is read while a graph is captured. A row a reading and device.
    "device_memory": (
        Column("at_ns", "int64", "nanoseconds since the start of recording: when it was read"),
        Column("call", "int64", "row key in `calls`, where it was read at an end of a call", True),
        Column("moment", "int8", "index into MOMENTS"),
        Column("device", "string", "cuda:0"),
        Column("allocated_bytes", "int64", "given out to tensors, in whole blocks of the allocator"),
        Column("reserved_bytes", "int64", "taken by the allocator from the device"),
        Column("peak_bytes", "int64", "the most that was allocated since the program began or has last reset this counter; on mps, which has no such counter, what is allocated"),
        Column("total_bytes", "int64", "the sum of all allocations since then, where the allocator counts it", True),
        Column("retries", "int64", "how often it has emptied its cache since then because the device had no more memory", True, since=1),
        Column("ooms", "int64", "how often that did not help", True, since=1),
        Column("device_allocs", "int64", "how often it has taken memory from the device since then (cudaMalloc, mapping)", True, since=1),
        Column("device_frees", "int64", "how often it has given some back", True, since=1),
        Column("inactive_split_bytes", "int64", "free in segments that are used in part, so the device cannot get it back", True, since=1),
        Column("active_bytes", "int64", "given out, or freed and waited for by another stream", True, since=1),
        Column("requested_bytes", "int64", "given out, before it is rounded up to blocks", True, since=1),
    ),
    # Operations inside module calls at which the host waits for the device (--syncs): one row a kind in a place of the code.
    "syncs": (
        Column("call", "int64", "row key in `calls`: the innermost module call"),
        Column("what", "string", "item, nonzero, mask, copy to host, ..."),
        Column("device", "string", "cuda:0: what was waited for; cpu where nothing was, but would be if the tensor were on a device"),
        Column("source_file", "string", "file of the code that asked for it; null where that is not known", True),
        Column("source_line", "int32", "its line", True),
        Column("count", "int64", "how often, in this call"),
        Column("size_bytes", "int64", "bytes copied, all together; null where not known", True),
    ),
    # Memory while it was watched (--memory): one row an allocation, and one for what was held when watching began.
    "allocations": (
        Column("at_ns", "int64", "nanoseconds since the start of recording: when it was allocated, or watching began"),
        Column("freed_ns", "int64", "when it was freed; null for what was held when watching ended", True),
        Column("size_bytes", "int64", "bytes"),
        Column("device", "string", "cpu, cuda:0"),
        Column("thread", "int32", "as the threads of calls; null for one that ran no module", True),
        Column("category", "int8", "index into CATEGORIES where the holder is known", True),
        Column("call", "int64", "row key in `calls`: the innermost call, phase or span, where the allocator itself has noted it; null where it has not", True, since=2),
    ),
    # What autograd kept when a backward began (--saved): a row each call that made nodes of its graph, and each around one.
    # What no module call made is the backward's own. A storage is counted once, for the node that kept it first.
    "saved": (
        Column("backward", "int64", "row key in `calls`: the backward phase that was about to run"),
        Column("call", "int64", "row key in `calls`: the innermost module call that made the nodes; `backward` itself for those made outside of any"),
        Column("saved_bytes", "int64", "of the storages that its nodes keep, parameters and buffers left out; what calls inside keep is theirs"),
        Column("storages", "int64", "how many those are"),
        Column("packed", "int64", "tensors that saved-tensor hooks (a checkpoint, save_on_cpu) hold in their own way: their bytes are not known"),
        Column("uncounted", "list<string>", "nodes, and kinds of tensors, of which it cannot be told what they keep"),
    ),
    # Operators and kernels while they were watched (--kernels): one row an execution.
    "operators": (
        Column("at_ns", "int64", "nanoseconds since the start of recording: when an operator ended, or a kernel was launched"),
        Column("self_ns", "int64", "time of an operator on the host without operators inside it, or of a kernel on its device"),
        Column("name", "string", "aten::addmm, AddmmBackward0, a kernel's name"),
        Column("device", "string", "cpu, cuda:0"),
        Column("kind", "int8", "index into OPERATOR_KINDS"),
        Column("thread", "int32", "as the threads of calls; null for one that ran no module", True),
        Column("size_bytes", "int64", "of a copy or a fill on a device", True, since=1),
        Column("waited", "bool", "of a copy between host and device: the operator that asked for it waited for its end", True, since=1),
    ),
    # When memory or kernels were watched: one row a stretch of time. Nothing is known of what was outside. A row of neither
    # is a stretch in which a debugger was at work. A step that any row meets counts in no statistic.
    "watched": (
        Column("from_ns", "int64", "nanoseconds since the start of recording"),
        Column("to_ns", "int64", "likewise"),
        Column("memory", "bool", "allocations were noted; where neither these nor kernels were, a debugger was at work"),
        Column("kernels", "bool", "operators and kernels were noted"),
    ),
    # Ranges of values (--values, --nan), in the order in which the tensors came to be: one row a tensor. With --nan alone
    # there are rows of steps in which something was not finite, and of a few steps before.
    "values": (
        Column("call", "int64", "row key in `calls`: the module call; of a gradient the forward call, or the backward where no module made it; of a loss the backward; of a parameter the optimizer's step or the call that is about to use it; of a batch the wait for it"),
        Column("at_ns", "int64", "nanoseconds since the start of recording: when it was read"),
        Column("kind", "int8", "index into VALUE_KINDS"),
        Column("module", "int32", "row key in `modules`: whose output, input, gradient or parameter it is", True),
        Column("path", "string", "where in the structure, as in `signatures`; of a parameter its name in the module"),
        Column("dtype", "string", "torch's name without `torch.`: float32"),
        Column("elements", "int64", "number of elements; null where the tensor cannot be asked", True),
        Column("minimum", "double", "the least element; NaN where any element is NaN; of a complex tensor over real and imaginary parts; null where it was not read", True),
        Column("maximum", "double", "the greatest element, likewise", True),
        Column("norm", "double", "the 2-norm; null where it was not asked for", True),
        Column("hash", "int64", "a hash of the bits of all elements; null where it was not asked for, or not read", True, since=2),
        Column("reason", "string", "why it was not read; then a later tensor of the same place may have no row", True),
    ),
    # Where values that are not finite began (--nan): one row a step in which that happened, a few at most.
    "nonfinite": (
        Column("call", "int64", "row key in `calls`, as in `values`"),
        Column("at_ns", "int64", "nanoseconds since the start of recording: when the tensor was read"),
        Column("verdict", "int8", "index into VERDICTS"),
        Column("kind", "int8", "index into VALUE_KINDS: the tensor in which they began"),
        Column("module", "int32", "row key in `modules`: the module that made them; null for none", True),
        Column("path", "string", "as in `values`"),
        Column("is_nan", "bool", "NaN; else infinities"),
        Column("from_loader", "bool", "they were in what a DataLoader handed out"),
        Column("became_nan", "int32", "row key in `modules`: the module in which infinities became NaN", True),
        Column("node", "string", "of a gradient: autograd's function that made it (LogBackward0)", True),
        Column("operation", "string", "of --nan-pin: the operation in the module's forward", True),
        Column("source_file", "string", "the program's file where it happened, or where the module is called", True),
        Column("source_line", "int32", "the line", True),
    ),
    # The steps that were asked for with --memory, --kernels and --saved. More may have been watched: views show these alone. And
    # those that someone who looked at the run asked for in full, a row each time.
    "asked": (
        Column("what", "string", "memory, kernels, saved, values or full"),
        Column("first_step", "int64", "number of the first step"),
        Column("end_step", "int64", "number of the first step that is not asked for any more"),
        Column("every", "int64", "of these each so manieth alone, counted from step 0; null for all", True, since=2),
    ),
    # Sums over windows of steps (--rollups): one row a module and a phase in each, and one of the steps themselves. The first 32 windows
    # are of one step, the next 32 of two, then of four, and so on. The window in progress is in a file of its own.
    "rollups": (
        Column("first_step", "int64", "number of the first step of the window, as it was counted while the program ran"),
        Column("end_step", "int64", "number of the first step behind it"),
        Column("from_ns", "int64", "nanoseconds since the start of recording: when the first of its steps that are in the sums began"),
        Column("to_ns", "int64", "when the last of them ended"),
        Column("module", "int32", "row key in `modules`; null for a phase, and for the steps themselves: from one end of a step to the next", True),
        Column("calls", "int64", "module calls that are no recompute; of the steps how many have a time; of a phase how often it ran"),
        Column("forward_ns", "int64", "sum of the times of these calls; null for none, or where the end of one was not seen", True),
        Column("forward_max_ns", "int64", "the most of it in one step", True),
        Column("backward_ns", "int64", "the same of backwards, without what checkpoints computed again in them", True),
        Column("backward_max_ns", "int64", "the most of it in one step", True),
        Column("forward_buckets", "list<int64>", "histogram of its forward time in each step: buckets in order, 64 an octave"),
        Column("forward_steps", "list<int64>", "how many steps are in each of these buckets"),
        Column("backward_buckets", "list<int64>", "the same of its backward time"),
        Column("backward_steps", "list<int64>", "likewise"),
        Column("phase", "int8", "of a phase its index in PHASES, its time is that of `forward_ns`; null for modules and steps. `forward` and `eval` are root calls with and without gradients, criteria among them; there is no `loss`", True, since=2),
        Column("forward_self_ns", "int64", "sum of the own times of these calls, or of the phase: of `backward` it holds waiting for other ranks", True, since=2),
        Column("backward_self_ns", "int64", "the same of backwards and of what checkpoints computed again; null for none", True, since=2),
    ),
    # Stretches of steps of which no single calls were written (--keep), between steps of which all were. The stretch in
    # progress is in a file of its own.
    "thinned": (
        Column("first_step", "int64", "number of the first step that was left out, as it was counted while the program ran"),
        Column("end_step", "int64", "number of the first step behind it"),
        Column("from_ns", "int64", "nanoseconds since the start of recording: when the first of them began"),
        Column("to_ns", "int64", "when the last of them ended"),
        Column("every", "int64", "of so many steps one was written then; those that were remarkable besides"),
    ),
    "errors": (
        Column("error", "int32", "key, one an exception object"),
        Column("type", "string", "class name"),
        Column("message", "string", "first line, at most MESSAGE_LIMIT characters (MEMORY_MESSAGE_LIMIT of one about memory); null with --no-messages", True),
        Column("source_file", "string", "file of the last line of the program's own code that it was raised below", True, since=1),
        Column("source_line", "int32", "that line", True, since=1),
        Column("function", "string", "function of torch.nn.functional that this line called, as F.name; null for anything else", True, since=1),
        Column("arguments", "tensors", "the tensors that function was given", True, since=1),
        Column("left_calls", "bool", "it left a module call, a backward or an optimizer's step; else it ended the recording without", True, since=1),
    ),
    # What could not be recorded. Every view shows it.
    "gaps": (
        Column("at_ns", "int64", "nanoseconds since the start of recording in this process"),
        Column("reason", "string", "what happened, for people"),
        Column("lost_calls", "int64", "calls known to be lost; null when the number is unknown", True),
    ),
}

BEYOND_LIMIT: Final = frozenset({"rollups", "thinned", "modules", "names", "gaps"})
"""Tables that go on with sums when the others have reached the size that a trace may have."""

TABLES_SINCE: Final = {
    "parameters": 1, "compilations": 1, "asked": 1, "device_starts": 1, "values": 2, "nonfinite": 2,
    "rollups": 2, "thinned": 2, "process_groups": 2, "collectives": 2,
}  # fmt: skip
"""The minor versions that added tables; the others were there from the first."""

_CODES: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("calls", "kind"): KINDS, ("open", "kind"): KINDS, ("calls", "status"): STATUSES, ("operators", "kind"): OPERATOR_KINDS,
    ("allocations", "category"): CATEGORIES, ("device_memory", "moment"): MOMENTS, ("rollups", "phase"): PHASES,
    ("values", "kind"): VALUE_KINDS, ("nonfinite", "kind"): VALUE_KINDS, ("nonfinite", "verdict"): VERDICTS,
}  # fmt: skip
"""Columns that are an index into these."""
_MOMENTS: Final = ("start_ns", "at_ns", "freed_ns", "from_ns", "to_ns", "seen_ns")
_YEARS_NS: Final = 1 << 56
"""Two years."""


def bounds(table: str, column: Column) -> tuple[int, int]:
    """The least and the greatest value that a column of integers can have."""
    codes = _CODES.get((table, column.name))
    if codes is not None:
        return 0, len(codes) - 1
    if column.name.endswith("_ns"):
        return -_YEARS_NS if column.name in _MOMENTS else 0, _YEARS_NS
    width = {"int8": 7, "int32": 31, "int64": 62}[column.type]
    if column.name.endswith(("_bytes", "count", "storages", "packed")):
        width = min(width, 56)
    return -1 if column.name == "parent" else 0, (1 << width) - 1


def adds_up(column: Column) -> bool:
    """True if a column is one of amounts, which are added up."""
    return column.type == "int64" and column.name not in _MOMENTS and (
        column.name.endswith(("_ns", "_bytes", "count", "storages", "packed")) or column.name == "flops"
    )


CALL_COLUMNS: Final = (
    "parent", "kind", "name", "type", "root", "module_id", "step", "phase", "rank", "thread", "depth",
    "start_ns", "duration_ns", "self_ns", "device_ns", "device_dry", "inputs", "outputs",
    "memory_delta_bytes", "memory_peak_bytes", "memory_retries", "memory_device_allocs", "saved_bytes", "flops", "flops_at_least",
    "output_minimum", "output_maximum", "output_absolute_maximum", "gradient_absolute_maximum", "status", "error",
    "last_call", "forward", "tracer_ns", "hooks_ns", "output_replaced", "source_file", "source_line",
)  # fmt: skip
"""Columns of the public `calls` DataFrame, indexed by `call`. Null where not known."""
