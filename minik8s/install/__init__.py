"""Installs the parts as systemd services, and removes them: `minik8s install`, `minik8s uninstall`. Read next: `plan.py`."""
