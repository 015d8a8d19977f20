"""What is served, and each kind's own rules: defaults, validity, what may change. Read next: `catalogue.py`."""
