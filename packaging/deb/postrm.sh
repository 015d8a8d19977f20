#!/bin/sh
# Purged: its own state as well. Certificates below /etc/kubernetes may be another Kubernetes', and stay.
set -e
package="@PACKAGE@"
if [ "$1" = purge ]; then
  case $package in
    flanneld-py) rm -rf /etc/flanneld-py/keys /run/flannel /var/lib/cni/flannel ;;
    minik8s) rm -rf /etc/minik8s /var/lib/minik8s-etcd /var/cache/minik8s ;;
  esac
  rmdir /etc/flanneld-py/keys /etc/flanneld-py 2>/dev/null || true
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
