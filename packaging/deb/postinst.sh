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
  # shellcheck disable=SC2086,SC2046  # names without blanks; a target's restart would be one more of each of its units
  [ -z "$units" ] || systemctl try-restart --no-block $(printf '%s\n' $units | grep -v target) || true
fi
