"""The trace on disk: its schema, the writer, the reader that checks everything, and the folder it lives in.

Imports no torch and nothing of the other sub-packages; all of them build on this one.
"""
