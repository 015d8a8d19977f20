"""The kernel as frozen records, the pure difference between two of them, and the adapters that read and write it."""
