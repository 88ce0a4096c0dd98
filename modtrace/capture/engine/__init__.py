"""The tracer itself: thread buffers, carriers of calls, signatures, blocks, and the protocol of recorders."""
