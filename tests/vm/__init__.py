"""A real virtual machine for what this kernel or this init cannot show: `python -m tests.vm run -- COMMAND`.

Read next: `tests/vm/__main__.py`, then `image.py` (what is built) and `machine.py` (how it runs).
"""
