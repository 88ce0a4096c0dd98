"""Runs a script, a module or a string as python would, in a session that records it. No torch at import."""
