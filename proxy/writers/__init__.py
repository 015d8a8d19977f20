"""What has a mode's words written, one module per mode. Read next: `proxy/modes.py`."""
