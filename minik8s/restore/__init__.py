"""The way back of a backup. Read next: `minik8s/backup/state.py`."""
