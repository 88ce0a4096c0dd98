"""Changes between runs: alignment of modules, numbers without noise, times with verdicts, gates."""
