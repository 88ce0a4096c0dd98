"""Views of a trace. Files at this level print text for a terminal; `console` is the entry to them.

`models` is shared by all views. `tui` is the terminal application, `live` stands behind its live screen, and `html` is
the report.
"""
