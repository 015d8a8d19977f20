"""What every long-running command shares: its rim, logs, health, metrics and the talk with systemd."""
