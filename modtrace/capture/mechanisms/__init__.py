"""Parts of recorders, which listen to torch, to its profiler, its allocators and its devices."""
