#!/bin/sh
# Purged: its own state as well. What is in /etc/kubernetes, /run/flannel and /var/lib/cni may be another's by now, and stays.
set -e
package="@PACKAGE@"
if [ "$1" = purge ]; then
  case $package in
    flanneld-py | kube-proxy-py)  # the keys are of both: without their directory the other would not start any more
      [ -e /usr/lib/systemd/system/flanneld-py.service ] || [ -e /usr/lib/systemd/system/kube-proxy-py.service ] ||
        rm -rf /etc/flanneld-py/keys ;;
    minik8s)
      rm -rf /etc/minik8s /var/lib/minik8s-etcd /var/cache/minik8s
      for user in minik8s minik8s-etcd; do userdel "$user" 2>/dev/null || true; done ;;
  esac
  rmdir /etc/flanneld-py 2>/dev/null || true
fi
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
