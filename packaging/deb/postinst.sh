#!/bin/sh
# Users and directories; what ran goes on with the new version. Nothing is started that did not run.
set -e
package="@PACKAGE@"
units="@UNITS@"
[ "$1" = configure ] || exit 0
if command -v systemd-sysusers >/dev/null; then systemd-sysusers || true; fi
if command -v systemd-tmpfiles >/dev/null; then systemd-tmpfiles --create "/usr/lib/tmpfiles.d/$package.conf" 2>/dev/null || true; fi
if [ -d /run/systemd/system ]; then
  systemctl daemon-reload || true
  for unit in $units; do
    case $unit in *.target) ;; *) systemctl try-restart --no-block "$unit" || true ;; esac
  done
fi
