"""Numbers worked out of an open trace: steps, phases, trees, FLOPs, memory, findings. Arrays and frames, no text."""
