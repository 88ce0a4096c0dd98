"""Names that would be more than names in a careless page."""

from __future__ import annotations

import torch
from torch import nn

import modtrace

HOSTILE = [
    "</script><script>window.PWNED=1</script>",
    "<img src=x onerror=window.PWNED=1>",
    "\u2028\u2029window.PWNED=1//",
    "\udc80 lone",
    "\x00\x1b]0;x\x07\x9b",
    "a" * 10_000,
    "'\"><svg onload=alert(1)>",
    "<!--<script>",
    "&lt;b&gt;",
    "\u202egnp",
]


def hostile_trace():
    """A trace whose modules and classes have these names."""
    model = nn.Sequential()
    for text in HOSTILE:
        kind = type(text.replace("\x00", "0").encode("utf-8", "replace").decode(), (nn.Identity,), {})
        model.add_module(text.replace(".", "_"), kind())
    with modtrace.trace() as found:
        for text in HOSTILE[:3]:
            with modtrace.span(text):
                model(torch.ones(1))
    return found
