"""What is asked of an object before it is stored, beyond holding together by itself. Read next: `chain.py`."""
