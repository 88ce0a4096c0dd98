"""Names of the events of recorders. Imports nothing."""

from __future__ import annotations

from typing import Final

EVENTS: Final = (
    "module_entered",
    "signature_seen",
    "root_began",
    "call_began",
    "call_ended",
    "batch_loaded",
    "phase_began",
    "phase_ended",
    "backward_requested",
    "backward_opened",
    "backward_paths",
    "backward_began",
    "gradients_arrived",
    "backward_ended",
    "backward_closed",
    "module_backward_began",
    "module_backward_ended",
    "call_taken_back",
    "optimizer_began",
    "optimizer_stepped",
    "optimizer_ended",
    "optimizer_skipped",
    "step_marked",
    "step_ended",
    "blocks_decoded",
)
"""Events of recorders; their arguments stand at the method of that name of `Recorder`."""
