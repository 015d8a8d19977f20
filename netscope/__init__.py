"""netscope: where a packet goes, and what stopped it. Read next: `netscope/trace.py`."""
