#!/bin/sh
# Removed: stopped, and started at no boot. Upgraded: left running until the new version is there.
set -e
units="@UNITS@"
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  for unit in $units; do systemctl disable --now --quiet "$unit" || true; done
fi
