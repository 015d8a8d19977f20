"""What is done: one module for the verbs that read, write, watch and stream. Read next: `dispatch.py`."""
