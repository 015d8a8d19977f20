"""What can be wrong with a cluster's network: each check is a pure function of all nodes' facts. Read next: `tunnels.py`."""

from netscope.checks import firewall, forwarding, tunnels

CHECKS = (*forwarding.CHECKS, *tunnels.CHECKS, *firewall.CHECKS)
