"""What the server does unasked, as long as it runs: makes what is to be there, signs, counts. Read next: `default_objects.py`."""
