"""Architectures that nobody here wrote: results, calls, shapes and FLOPs, against what does not know of modtrace."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils import flop_counter

import modtrace
from tests.architectures.tiny import ARCHITECTURES, VOCABULARY

transformers = pytest.importorskip("transformers")
aten = torch.ops.aten
STEPS = 3
"""The first two are counted, the third is looked up."""


def make(name: str) -> tuple[nn.Module, dict[str, Any]]:
    tiny = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[name](**tiny.options)
    model = transformers.AutoModel.from_config(config).train()
    return model, tiny.given()


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)


def train(model: nn.Module, given: dict[str, Any], step: int) -> list[torch.Tensor]:
    """One forward and backward; outputs and gradients."""
    torch.manual_seed(step)
    np.random.seed(step)
    model.zero_grad()
    outputs = list(tensors_of(model(**given)))
    sum(one.float().sum() for one in outputs if one.requires_grad).backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [one.detach().clone() for one in (*outputs, *gradients)]


class Recorder:
    """Every module call in order of start, from its wrapper: (name, class, shapes given, shapes returned)."""

    def __init__(self, model: nn.Module) -> None:
        self.names = {id(module): name for name, module in model.named_modules()}
        self.calls: list[tuple[str, str, list[Any], list[Any]]] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        call = nn.Module.__call__
        recorder = self

        def recorded(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            given = [tuple(one.shape) for one in tensors_of((args, kwargs))]
            row = (recorder.names.get(id(module), "?"), type(module).__name__, given, [])
            recorder.calls.append(row)
            result = call(module, *args, **kwargs)
            row[3].extend(tuple(one.shape) for one in tensors_of(result))
            return result

        nn.Module.__call__ = recorded
        try:
            yield
        finally:
            nn.Module.__call__ = call


def counter() -> flop_counter.FlopCounterMode:
    """torch's own, with what is missing or wrong in it by hand."""
    forward, backward = flop_counter.sdpa_flop_count, flop_counter.sdpa_backward_flop_count

    def grouped(tokens: Any, matrices: Any, *_: Any, **__: Any) -> int:
        return 2 * math.prod(tokens) * matrices[-1]  # the tokens (T, K) or gradients (K, T) of all groups

    def gradients(grad: Any, given: Any, weight: Any, *rest: Any, **_: Any) -> int:
        return sum(rest[-1][:2]) * 2 * math.prod(given if rest[4] else grad) * math.prod(weight[1:])

    mapping = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: forward(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: backward(
            g, q, k, v
        ),
        aten.convolution_backward: gradients,
        aten._grouped_mm: grouped,
    }
    return flop_counter.FlopCounterMode(display=False, custom_mapping=mapping)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture(name):
    model, given = make(name)
    untraced, counting, traced = model, copy.deepcopy(model), copy.deepcopy(model)
    expected = [train(untraced, given, step) for step in range(STEPS)]
    recorder, true = Recorder(counting), []
    for step in range(STEPS):
        with recorder.recording(), counter() as found:
            train(counting, given, step)
        true.append(found.get_total_flops())
    with modtrace.trace(traced) as t:
        results = [train(traced, given, step) for step in range(STEPS)]

    for result, right in zip(results, expected, strict=True):
        assert len(result) == len(right)
        assert all(torch.equal(one, other) for one, other in zip(result, right, strict=True))
    compare_calls(t, recorder)
    compare_flops(t, true, ARCHITECTURES[name].uncounted)


def compare_calls(t: modtrace.Trace, recorder: Recorder) -> None:
    calls = t.calls[t.calls["kind"] == "module"]
    names = [name for name, _, _, _ in recorder.calls]
    assert calls["type"].tolist() == [kind for _, kind, _, _ in recorder.calls]
    assert [a for a, b in zip(calls["name"], names, strict=True) if b != "?"] == [
        b for b in names if b != "?"
    ]
    for text, (name, kind, _, returned) in zip(calls["outputs"], recorder.calls, strict=True):
        for shape in returned[:8]:
            assert f"[{','.join(map(str, shape))}]" in text, (name, kind)
    for text, (name, kind, shapes, _) in zip(calls["inputs"], recorder.calls, strict=True):
        for shape in shapes[:8]:
            assert f"[{','.join(map(str, shape))}]" in text, (name, kind)


def compare_flops(t: modtrace.Trace, true: list[int], uncounted: list[str]) -> None:
    steps = t.steps
    assert all(count > 0 for count in true)
    if uncounted:
        assert steps["flops"].isna().all()
        assert steps["flops_at_least"].tolist() == true
        assert steps["uncounted"].tolist() == [uncounted] * STEPS
        return
    assert steps["flops"].tolist() == true, steps["uncounted"].tolist()
    assert steps["flops_at_least"].tolist() == true
    assert steps["counted"].tolist() == [True, True, False]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_generation_with_a_cache(name):
    """The work of a step depends on the length of the cache: right where it is known, and never less than is said."""
    tiny = ARCHITECTURES[name]
    torch.manual_seed(0)
    kind = transformers.AutoModelForSeq2SeqLM if name == "t5" else transformers.AutoModelForCausalLM
    config = transformers.CONFIG_MAPPING[name](**tiny.options, decoder_start_token_id=0, eos_token_id=None)
    model = kind.from_config(config).eval()
    prompt = torch.randint(5, VOCABULARY, (1, 4))
    options = {"max_new_tokens": 8, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    with torch.no_grad():
        expected = model.generate(prompt, **options)

    true: list[int] = []
    forward = type(model).forward

    @functools.wraps(forward)  # `generate` looks at its arguments
    def each(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with counter() as found:
            result = forward(self, *args, **kwargs)
        true.append(found.get_total_flops())
        return result

    type(model).forward = each
    try:
        for _ in range(2):
            model.generate(prompt, **options)
    finally:
        type(model).forward = forward
    with modtrace.trace() as t:
        for _ in range(2):
            assert torch.equal(model.generate(prompt, **options), expected)

    roots = t.calls[(t.calls["depth"] == 0) & (t.calls["type"] == type(model).__name__)]
    assert len(roots) == len(true) == 16
    assert len(set(true)) > 7  # every length of the cache is another one
    for found, least, right in zip(roots["flops"], roots["flops_at_least"], true, strict=True):
        assert found is pd.NA or found == right
        assert least <= right
    assert roots["flops"].notna().sum() >= 8
    assert (roots["flops_at_least"] > 0).all()
