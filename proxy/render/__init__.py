"""From what a Service should do to the words of a packet filter: pure, one module per mode."""
