"""Adapters to training frameworks and trackers of experiments. Each is imported by its users alone, by name."""
