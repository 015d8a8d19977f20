"""One request understood and answered: URLs, bodies, forms, selectors, refusals. Read next: `call.py`."""
