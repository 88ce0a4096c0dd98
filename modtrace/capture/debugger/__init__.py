"""The debugger that opens in modules: waits for a frame, opens a prompt there, walks the open module calls."""
