"""netscope: where a packet goes, and what stopped it. Read next: `netscope/command.py`, `netscope/trace.py`."""

CNI_DIRECTORY, SUBNET_FILE = "/etc/cni/net.d", "/run/flannel/subnet.env"  # of a node, unless an agent is told otherwise
