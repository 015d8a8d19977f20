"""The whole state of a cluster in one file, and back. Read next: `state.py`."""
