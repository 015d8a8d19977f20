#!/bin/bash
# Makes the box, of Debian's packages alone, in /var/cache/flanneld-py/machines/debian.box: a name for `lab vms prepare`.
set -euo pipefail
lab=$(cd "$(dirname "$0")/../.." && pwd)/lab
if [[ $(id -u) == 0 ]]; then exec "$lab" vms prepare; else exec sudo "$lab" vms prepare; fi
