"""Tells if torch makes a graph of the code that runs: those are no calls of the program."""

from __future__ import annotations

from typing import Any, Final

import torch

from modtrace.capture.torch_private.lookup import ask

_LIKE_OTHERS: Final = "calls that {} makes to look at a model are recorded like others"
_compiles = ask("torch.compiler._is_compiling_flag", lost=_LIKE_OTHERS.format("torch.export"), instead=False)
# `is_fx_tracing()` is public, but logs at each call from 2.14 on.
_is_symbolic = ask(
    "torch.fx._symbolic_trace._get_is_fx_tracing",
    "torch.fx._symbolic_trace._is_fx_tracing_flag",
    lost=_LIKE_OTHERS.format("torch.fx"),
    instead=False,
)


def is_making_graph() -> bool:
    """True if anything but `torch.compile` makes a graph on this thread."""
    jit: Any = torch.jit
    return bool(_compiles() or jit.is_tracing() or _is_symbolic())


def is_tracing() -> bool:
    """True if anything makes a graph on this thread."""
    compiler: Any = torch.compiler
    return bool(compiler.is_dynamo_compiling()) or is_making_graph()
