"""Who owns which field: `metadata.managedFields`, server-side apply and its conflicts.

Everything here but `tracking.py` is pure and knows neither HTTP nor storage. Read next: `paths.py`, the sets of fields;
`forms.py`, what a kind is made of; `change.py`, `merge.py`, `ownership.py`, the decisions; `tracking.py`, what the verbs call.
"""
