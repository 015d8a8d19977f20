"""What would become of a packet, worked out from facts alone: no packet is sent. Read next: `journey.py`."""
