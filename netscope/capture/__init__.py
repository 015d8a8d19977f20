"""Packets of many nodes and interfaces in one file. Read next: `netscope/capture/recording.py`."""
