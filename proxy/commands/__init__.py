"""The sub-commands that only look: nothing here writes to the kernel. Read next: `proxy/commands/render.py`."""
