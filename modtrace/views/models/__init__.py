"""Headless models behind the screens and the printed texts: trees, their open rows and order, boxes of flame charts.

Plain arrays in, plain arrays and texts out: nothing here imports Textual or rich.
"""
