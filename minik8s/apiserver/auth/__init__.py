"""Who asks, and what they may do. Read next: `authenticate.py`."""
