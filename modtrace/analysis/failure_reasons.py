"""Reasons for which a call failed, as far as that follows from torch's message and from what was recorded; nothing is
guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

Tensor = dict[str, Any]
"""A row of the schema's `tensors`: path, shape, dtype, device, layout, requires_grad."""


@dataclass(frozen=True)
class Circumstances:
    """Facts about a failure that the rules judge by.

    error, message: class name of the exception, first line of its message ("" where it was not kept).
    called: class of the failing module, or `F.name` of a function of torch; "" where neither is known.
    parameters: the module's own.
    given: the tensors that it was given, in order.
    backward: a backward failed, and this module's part of it where `called` is known.
    earlier_step: the step of the forward that the backward went through, where it is an earlier one than its own.
    gone_through: a backward had gone through that forward before.
    stepped: an optimizer had stepped between that forward and the backward.
    root_outputs: of the last forward before a failed backward; None where there was none.
    no_grad: that forward ran without gradients.
    trainable: how many elements of its parameters require gradients; None where not known.
    """

    error: str
    message: str = ""
    called: str = ""
    parameters: list[Tensor] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)
    backward: bool = False
    earlier_step: int | None = None
    gone_through: bool = False
    stepped: bool = False
    root_outputs: list[Tensor] | None = None
    no_grad: bool = False
    trainable: int | None = None

    @property
    def layer(self) -> str:
        """The class whose rules hold: that of the module, or of the module that runs the function."""
        return LAYERS.get(self.called, self.called)


LAYERS: Final = {
    "F.cross_entropy": "CrossEntropyLoss",
    "F.nll_loss": "NLLLoss",
    "F.binary_cross_entropy": "BCELoss",
    "F.binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "F.mse_loss": "MSELoss",
    "F.embedding": "Embedding",
    "F.batch_norm": "BatchNorm",
    "F.layer_norm": "LayerNorm",
}
_CLASSES: Final = ("CrossEntropyLoss", "NLLLoss")
"""Losses of an input (N, C, ...) and a target (N, ...) of numbers of classes."""
_JUDGED: Final = ("RuntimeError", "ValueError", "IndexError", "TypeError", "AssertionError")
"""Classes of exceptions that torch raises for sizes, types and devices that do not fit."""


def reason(facts: Circumstances) -> str | None:
    """A sentence: the reason for which it failed and what to do; None where nothing is certain."""
    if facts.error not in _JUDGED:
        return None
    for pattern, explain in _RULES:
        match = pattern.search(facts.message)
        if match is not None:
            text = explain if isinstance(explain, str) else explain(facts, match)
            if text is not None:
                return text
    return None if facts.backward else disagreement(facts)


# what the message and the records say together ---------------------------------------------------------------------


def _index_range(facts: Circumstances, _: re.Match[str]) -> str | None:
    weight = _named(facts, "weight")
    if facts.layer not in ("Embedding", "EmbeddingBag") or weight is None or not weight["shape"]:
        return None
    rows = weight["shape"][0]
    return f"an index is outside of 0 to {rows - 1}: the weight has {rows} rows"


def _target_range(facts: Circumstances, match: re.Match[str]) -> str | None:
    scores = facts.given[0]["shape"] if facts.given else None
    if facts.layer not in _CLASSES or not scores:
        return None
    count = scores[1] if len(scores) > 1 else scores[0]
    return f"target {match[1]} is outside of 0 to {count - 1}: the input has {count} classes"


def _batch_of_loss(_: Circumstances, match: re.Match[str]) -> str | None:
    return f"the input has {match[1]} samples, the target {match[2]}"


def _class_targets(facts: Circumstances, _: re.Match[str]) -> str | None:
    if facts.layer not in _CLASSES or len(facts.given) < 2 or facts.given[1]["dtype"] == "int64":
        return None
    return f"the target is {facts.given[1]['dtype']}; numbers of classes must be int64: target.long()"


def _sizes_of_target(_: Circumstances, match: re.Match[str]) -> str | None:
    return f"the target has shape [{match[1]}], the input [{match[2]}]: give both the same shape"


def _one_sample(facts: Circumstances, _: re.Match[str]) -> str | None:
    name = "it" if not facts.called else f"{facts.called} in training mode"
    return (
        f"a batch of 1: {name} needs more than one value per channel; leave the last batch out "
        "(drop_last=True) or call eval()"
    )


def _changed_in_place(facts: Circumstances, match: re.Match[str]) -> str | None:
    sizes = [int(size) for size in re.findall(r"\d+", match[1])]
    is_parameter = any(sorted(parameter["shape"] or ()) == sorted(sizes) for parameter in facts.parameters)
    if facts.stepped and is_parameter:
        return (
            "an optimizer stepped between this forward and its backward, and changed the parameters in place: "
            "call every backward before the step, or run the forward again after it"
        )
    operation = re.sub(r"Backward\d*$", "", match[2] or "")
    if not match[2] or operation in ("AsStrided", "T", "View", "Slice", "Select", "Transpose", ""):
        return None
    name = operation[0].lower() + operation[1:]
    return (
        f"what {name} returned was changed in place afterwards (such as by +=), and its backward needs it: "
        "use y = y + x, or clone() it first"
    )


def _second_time(facts: Circumstances, _: re.Match[str]) -> str | None:
    if facts.earlier_step is not None:
        where = f" of {facts.called}" if facts.called else ""
        return (
            f"this backward goes back into a forward{where} of step {facts.earlier_step}, whose graph is gone: "
            "detach() what is kept from step to step"
        )
    if facts.gone_through:
        return (
            "a backward has gone through this forward already: add the losses up and call backward once, "
            "or give the first one retain_graph=True"
        )
    return None


def _no_gradient(facts: Circumstances, _: re.Match[str]) -> str | None:
    outputs = facts.root_outputs
    if outputs is None:
        return None
    if facts.no_grad:
        return "the forward ran without gradients (no_grad, inference_mode or set_grad_enabled(False))"
    if facts.trainable == 0:
        return "no parameter of the model requires gradients"
    if any(tensor["requires_grad"] for tensor in outputs):
        return (
            "the model's output has a gradient, the loss made of it has none: argmax, comparisons, rounding, .item(), "
            ".detach() and new tensors cut the graph"
        )
    return (
        "the model's output has no gradient: argmax, comparisons, .detach() and new tensors in its forward "
        "cut the graph"
    )


def _hidden_state(_: Circumstances, match: re.Match[str]) -> str | None:
    expected, got = ([int(size) for size in re.findall(r"\d+", match[group])] for group in (1, 2))
    if len(expected) == len(got) == 3 and expected[0] == got[0] and expected[2] == got[2]:
        return (
            f"the hidden state is of a batch of {got[1]}, the input of {expected[1]}: "
            "make it anew for each batch size"
        )
    return None


def _kernel(_: Circumstances, match: re.Match[str]) -> str | None:
    return f"the input with its padding, {match[1]}, is smaller than the kernel, {match[2]}"


def _mixed_devices(facts: Circumstances, _: re.Match[str]) -> str | None:
    return _devices(facts.parameters, facts.given, meta=True)


_Rule = str | Callable[[Circumstances, re.Match[str]], str | None]
_TEXTS: Final[tuple[tuple[str, _Rule], ...]] = (
    (r"^index out of range in self|takes value -?\d+ which is not in the valid range", _index_range),
    (r"^Target (-?\d+) is out of bounds", _target_range),
    (r"^Expected input batch_size \((\d+)\) to match target batch_size \((\d+)\)", _batch_of_loss),
    (
        r"(?:scalar type|target dtype to be) Long|not implemented for '(?:Int|Float|Double|Half|Bool)'",
        _class_targets,
    ),
    (
        r"(?i)^(?:using a )?target size \(torch\.Size\(\[([\d, ]*)\]\)\)\D+ input size \D+([\d, ]*)",
        _sizes_of_target,
    ),
    (
        r"^all elements of input should be between 0 and 1",
        "binary cross entropy takes probabilities: put a sigmoid before it, or use BCEWithLogitsLoss",
    ),
    (r"^Expected more than 1 value per channel when training", _one_sample),
    (
        r"modified by an inplace operation: \[[\w.]+ \[?([\d, ]*)\]?\](?:, which is output \d+ of (\w+))?",
        _changed_in_place,
    ),
    (r"backward through the graph a second time", _second_time),
    (r"does not require grad and does not have a grad_fn", _no_gradient),
    (
        r"^grad can be implicitly created only for scalar outputs",
        "the loss is not a single number: reduce it with .mean() or .sum()",
    ),
    (
        r"BackwardHookFunction(?:Backward)? is a view and is being modified inplace",
        (
            "a full backward hook is on a module whose output is changed in place here: use inplace=False, "
            "or a hook on the tensor"
        ),
    ),
    (
        r"leaf Variable that requires grad (?:is being used|has been moved)",
        "a parameter, or another tensor that requires gradients, is changed in place: do it under torch.no_grad()",
    ),
    (r"^Expected hidden(?:\[[01]\])? size \(([\d, ]+)\), got \[([\d, ]+)\]", _hidden_state),
    (
        r"^Calculated padded input size per channel: \(([\dx ]+)\)\. Kernel size: \(([\dx ]+)\)\. Kernel size can't",
        _kernel,
    ),
    (
        r"^view size is not compatible with input tensor's size and stride",
        "the tensor does not lie in memory in that order: use reshape(), or contiguous() before view()",
    ),
    (r"\bdevice\b|meta tensor", _mixed_devices),
)
_RULES: Final = tuple((re.compile(pattern), rule) for pattern, rule in _TEXTS)
"""First lines of messages of torch 2.4 to 2.14, and what they mean here."""


# what disagrees about sizes, types and devices ---------------------------------------------------------------------


def disagreement(facts: Circumstances) -> str | None:
    """A sentence that says what disagrees between a module's parameters and the tensors it was given; None where no
    rule is certain.
    """
    layer, parameters, inputs = facts.layer, facts.parameters, facts.given
    if not inputs:
        return None
    weight = next((parameter for parameter in parameters if parameter["path"] in _WEIGHTS), None)
    first = inputs[0]
    devices = _devices(parameters, inputs, meta=False)
    if devices is not None:
        return devices
    if layer in {"Embedding", "EmbeddingBag"}:
        if not first["dtype"].startswith(("int", "uint")):
            return f"the input is {first['dtype']}; {layer} takes integers"
        return None
    if weight is None:
        return None
    if first["shape"] is not None and weight["shape"] is not None:
        sizes = _sizes(layer, weight["shape"], first["shape"])
        if sizes is not None:
            return sizes
    if first["dtype"] != weight["dtype"] and layer in _SAME_DTYPE:
        return f"dtypes differ: the input is {first['dtype']}, {weight['path']} is {weight['dtype']}"
    return None


_WEIGHTS: Final = ("weight", "weight_ih", "weight_ih_l0", "in_proj_weight")
_SAME_DTYPE: Final = frozenset(
    {"Linear", "Bilinear", "LSTM", "GRU", "RNN", "MultiheadAttention"}
    | {f"Conv{n}d" for n in (1, 2, 3)}
    | {f"ConvTranspose{n}d" for n in (1, 2, 3)}
)
_CELLS: Final = ("LSTMCell", "GRUCell", "RNNCell")


def _named(facts: Circumstances, path: str) -> Tensor | None:
    return next((tensor for tensor in [*facts.parameters, *facts.given] if tensor["path"] == path), None)


def _devices(parameters: list[Tensor], inputs: list[Tensor], *, meta: bool) -> str | None:
    """A sentence that names the devices that differ; tensors on the meta device count where the message speaks of
    devices.
    """
    devices = {tensor["device"] for tensor in [*inputs, *parameters]}
    if len(devices) < 2 or not inputs or ("meta" in devices and not meta):
        return None
    first = inputs[0]
    other = next(tensor for tensor in [*parameters, *inputs] if tensor["device"] != first["device"])
    name = other["path"] if other in parameters else f"argument {other['path'] or '0'}"
    return f"devices differ: the input is on {first['device']}, {name} on {other['device']}"


def _sizes(layer: str, weight: list[int | None], input_shape: list[int | None]) -> str | None:
    """Rules that hold for torch's own layers with one group (a weight tells nothing certain of more)."""
    if layer in ("Linear", "LSTM", "GRU", "RNN", "MultiheadAttention", *_CELLS) and len(weight) == 2:
        if not input_shape or input_shape[-1] != weight[1]:
            last = input_shape[-1] if input_shape else "none"
            return f"the input's last size is {last}; the weight {weight} takes {weight[1]}"
        return None
    if layer.startswith(("Conv", "ConvTranspose")) and layer.endswith("d"):
        return _sizes_of_convolution(layer, weight, input_shape)
    if layer.startswith("BatchNorm") and len(weight) == 1:
        if len(input_shape) > 1 and input_shape[1] != weight[0]:
            return f"the input has {input_shape[1]} channels; the weight {weight} takes {weight[0]}"
        return None
    if layer == "LayerNorm" and input_shape[-len(weight) :] != weight:
        return f"the input ends in {input_shape[-len(weight) :]}; the weight takes {weight}"
    if layer == "GroupNorm" and len(input_shape) > 1 and input_shape[1] != weight[0]:
        return f"the input has {input_shape[1]} channels; the weight {weight} takes {weight[0]}"
    return None


def _sizes_of_convolution(layer: str, weight: list[int | None], input_shape: list[int | None]) -> str | None:
    dimensions = len(weight) - 2
    if len(input_shape) not in (dimensions + 1, dimensions + 2):
        return f"the input has {len(input_shape)} dimensions; {layer} takes {dimensions + 2} (or {dimensions + 1})"
    channels = input_shape[-dimensions - 1]
    expected = weight[0] if layer.startswith("ConvTranspose") else weight[1]
    if channels is None or expected is None or not channels % expected:
        return None
    hint = (
        "; its last size is: are the channels last?" if input_shape[-1] == expected and dimensions > 1 else ""
    )
    return f"the input has {channels} channels; the weight {weight} takes {expected}{hint}"
