"""The commands of netscope that look at a scene: live or from a bundle. Read next: `looking.py`."""
