"""FLOP/s and bytes/s that devices were measured to reach: `measure` imports torch, `cache` reads its results."""
