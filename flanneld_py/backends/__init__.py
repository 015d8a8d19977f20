"""How packets get from node to node, as pure functions from leases to kernel records."""
