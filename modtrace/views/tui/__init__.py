"""The terminal application: one Textual app, its screens (a run that goes on is one), their widgets and lines."""
