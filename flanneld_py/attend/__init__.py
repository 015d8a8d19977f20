"""Backends whose peers are served by a process or by commands rather than by kernel records."""
