"""A node's containerd configuration and CNI network: pure texts.

Read next: `minik8s/lab/images.py`.
"""

from __future__ import annotations

import json

PAUSE = "lab.local/pause:1"

CONFIG = """version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_apparmor = {disable_apparmor}
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/run/cni-bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
        SystemdCgroup = false
"""

CONFLIST = {
    "name": "cbr0",
    "cniVersion": "0.3.1",
    "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def config_toml(*, runc: str, apparmor: bool, snapshotter: str) -> str:
    """containerd's config.toml for one node."""
    disable = "false" if apparmor else "true"
    return CONFIG.format(pause=PAUSE, runc=runc, disable_apparmor=disable, snapshotter=snapshotter)


def conflist() -> str:
    """The CNI network every pod is attached to."""
    return json.dumps(CONFLIST, indent=1) + "\n"
