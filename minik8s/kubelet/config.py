"""The kubelet's flags as one value.

Read next: `minik8s/kubelet/__main__.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodecore.errors import UserError
from nodecore.kube.quantity import parse_whole
from nodecore.net import parse_address


@dataclass(frozen=True, slots=True)
class Config:
    """What the command line said; `check` says what is wrong with it."""

    kubeconfig: str
    hostname_override: str
    node_ip: str
    container_runtime_endpoint: str = "unix:///run/containerd/containerd.sock"
    tls_cert_file: str = ""
    tls_private_key_file: str = ""
    client_ca_file: str = ""
    address: str = "0.0.0.0"
    port: int = 10250
    root_dir: str = "/var/lib/kubelet"
    pod_log_dir: str = "/var/log/pods"
    cgroup_root: str = ""
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    max_pods: int = 110
    container_log_max_size: str = "10Mi"
    container_log_max_files: int = 5
    node_labels: str = ""

    @property
    def node_ips(self) -> tuple[str, ...]:
        """`--node-ip`, the first being the one this node is known by."""
        return tuple(text.strip() for text in self.node_ip.split(",") if text.strip())

    def check(self) -> None:
        """Raise `UserError` for the first value that cannot work."""
        if not self.hostname_override:
            raise UserError("--hostname-override: not given")
        versions = [parse_address(text, what="--node-ip").version for text in self.node_ips]
        if not versions or len(versions) > len(set(versions)):
            raise UserError(f"--node-ip: {self.node_ip!r} is neither one IP address nor one of each family")
        if not self.container_runtime_endpoint.startswith("unix://"):
            raise UserError(f"--container-runtime-endpoint: {self.container_runtime_endpoint!r} does not start with unix://")
        if self.cgroup_root and not self.cgroup_root.startswith("/"):
            raise UserError(f"--cgroup-root: {self.cgroup_root!r} does not start with /")
        files = {"--tls-cert-file": self.tls_cert_file, "--tls-private-key-file": self.tls_private_key_file,
                 "--client-ca-file": self.client_ca_file}
        for flag, path in files.items():
            if not path:
                raise UserError(f"{flag}: not given")
            if not Path(path).is_file():
                raise UserError(f"{flag}: no file {path}")
        if self.container_log_max_files < 2:
            raise UserError(f"--container-log-max-files: {self.container_log_max_files} is too few, at least 2")
        self.log_limit()
        self.labels()

    def log_limit(self) -> int:
        """The size in bytes above which a log file is rotated."""
        size = parse_whole(self.container_log_max_size, what="--container-log-max-size")
        if size <= 0:
            raise UserError(f"--container-log-max-size: {self.container_log_max_size} is not more than nothing")
        return size

    def labels(self) -> dict[str, str]:
        """`--node-labels` as pairs."""
        made = {}
        for pair in filter(None, self.node_labels.split(",")):
            key, equals, value = pair.partition("=")
            if not key or not equals:
                raise UserError(f"--node-labels: {pair!r} is not key=value")
            made[key] = value
        return made
