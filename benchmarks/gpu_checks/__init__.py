"""The checks of a run on a GPU: each measures in a process of its own, and a pure function judges the numbers."""
