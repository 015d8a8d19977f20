"""kube-proxy's flags and the fields of its configuration file: one table for both.

A flag that stands for a field says its path (`nftables.syncPeriod`); of several paths, the mode's own section counts.
What this proxy has no use for is accepted, and said once at start, so that a unit file or a ConfigMap can stay as it is.

Pure. Must not know: click. Read next: `proxy/config.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ON, OFF = True, False


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag: its name, the field's path, its default (whose type is the flag's) and what the help says.

    A `*` in the path is the section of the mode. `unused` says why it is accepted and has no effect.
    """

    name: str
    field: str
    default: Any
    help: str
    many: bool = False
    unused: str = ""
    zero_is_unsaid: bool = False  # in the file, as kubeadm writes it
    also: tuple[str, ...] = ()  # other names of it

    def path(self, mode: str) -> tuple[str, ...]:
        """The field's path where this is the mode; ipvs mode has what it does not say itself from iptables."""
        section = "iptables" if mode == "ipvs" and self.field.startswith("*.masquerade") else mode
        return tuple(self.field.replace("*", section).split("."))


NO_TUNING = "the client has no such limit"
NOT_NEEDED = "it is not needed here"
NOT_HELD_BACK = "logs are not held back"
FLAGS = (
    Flag("kubeconfig", "clientConnection.kubeconfig", "", "Who we are and where the API is; else the pod's ServiceAccount."),
    Flag("master", "", "", "The API's address, over that of --kubeconfig."),
    Flag("proxy-mode", "mode", "", "nftables, which is the default here, iptables or ipvs.", also=("mode",)),
    Flag("hostname-override", "hostnameOverride", "", "This node's name, where it is not the host name."),
    Flag("bind-address", "bindAddress", "0.0.0.0", "The node's address, where its Node object does not tell."),
    Flag("cluster-cidr", "clusterCIDR", "", "The pods' networks; what comes from elsewhere to a ClusterIP is masqueraded."),
    Flag("detect-local-mode", "detectLocalMode", "", "How a pod is told from others: ClusterCIDR (the default), NodeCIDR, "
         "BridgeInterface, InterfaceNamePrefix."),
    Flag("pod-bridge-interface", "detectLocal.bridgeInterface", "", "With BridgeInterface: the bridge of the pods."),
    Flag("pod-interface-name-prefix", "detectLocal.interfaceNamePrefix", "",
         "With InterfaceNamePrefix: how the pods' interfaces begin."),
    Flag("nodeport-addresses", "nodePortAddresses", (), "Networks whose local addresses answer for NodePorts, or the words all "
         "(but loopback; the default here), primary (the Node's own), localhost (127.0.0.0/8).", many=True),
    Flag("iptables-localhost-nodeports", "iptables.localhostNodePorts", ON, "In iptables mode: NodePorts answer on 127.0.0.1 "
         "too; sets net.ipv4.conf.all.route_localnet."),
    Flag("masquerade-all", "*.masqueradeAll", OFF, "Masquerade whatever goes to a ClusterIP."),
    Flag("iptables-masquerade-bit", "*.masqueradeBit", 14, "The bit of the packet mark that says masquerade, 0 to 31.",
         also=("nftables-masquerade-bit",)),
    Flag("iptables-sync-period", "*.syncPeriod", "30s", "How often to look even if nothing happened.",
         zero_is_unsaid=True, also=("nftables-sync-period", "ipvs-sync-period")),
    Flag("iptables-min-sync-period", "*.minSyncPeriod", "1s", "The most that writes are held back.",
         zero_is_unsaid=True, also=("nftables-min-sync-period", "ipvs-min-sync-period")),
    Flag("ipvs-scheduler", "ipvs.scheduler", "", "In ipvs mode: how an endpoint is chosen, rr (the default), lc, sh, ..."),
    Flag("ipvs-exclude-cidrs", "ipvs.excludeCIDRs", (), "In ipvs mode: networks whose virtual servers are somebody else's.",
         many=True),
    Flag("ipvs-strict-arp", "ipvs.strictARP", OFF, "In ipvs mode: answer ARP for addresses of the asked interface only."),
    Flag("ipvs-tcp-timeout", "ipvs.tcpTimeout", "0s", "In ipvs mode: for idle TCP; 0 leaves it alone."),
    Flag("ipvs-tcpfin-timeout", "ipvs.tcpFinTimeout", "0s", "In ipvs mode: for TCP that was closed; 0 leaves it alone."),
    Flag("ipvs-udp-timeout", "ipvs.udpTimeout", "0s", "In ipvs mode: for idle UDP; 0 leaves it alone."),
    Flag("healthz-bind-address", "healthzBindAddress", "0.0.0.0:10256", "For /healthz and /livez; empty for none."),
    Flag("metrics-bind-address", "metricsBindAddress", "127.0.0.1:10249", "For /metrics, /configz, /proxyMode; empty for none."),
    Flag("bind-address-hard-fail", "bindAddressHardFail", OFF, "End where one of these cannot be bound; else go on without."),
    Flag("conntrack-max-per-core", "conntrack.maxPerCore", 32768, "Tracked connections per core; 0 leaves the limit alone."),
    Flag("conntrack-min", "conntrack.min", 131072, "... and at least so many."),
    Flag("conntrack-tcp-be-liberal", "conntrack.tcpBeLiberal", ON, "Track TCP packets outside the window as well, instead of "
         "leaving them untranslated; on here."),
    Flag("conntrack-tcp-timeout-established", "conntrack.tcpEstablishedTimeout", "24h", "For idle TCP; 0 leaves it alone."),
    Flag("conntrack-tcp-timeout-close-wait", "conntrack.tcpCloseWaitTimeout", "1h", "For those half closed; 0 leaves it alone."),
    Flag("conntrack-udp-timeout", "conntrack.udpTimeout", "0s", "For UDP nobody answered; 0 leaves it alone."),
    Flag("conntrack-udp-timeout-stream", "conntrack.udpStreamTimeout", "0s", "For UDP that was answered; 0 leaves it alone."),
    Flag("conntrack-forget-removed-tcp", "", OFF, "Forget TCP connections to endpoints that are gone, so that callers are told "
         "at once; else they wait until they time out."),
    Flag("traffic-metrics", "", OFF, "Tell packets and bytes by Service and endpoint in /metrics; in iptables mode "
         "connections as well."),
    Flag("verify-programming", "", OFF, "After each write, send a packet through the rules to see that they are in force."),
    Flag("oom-score-adj", "oomScoreAdj", -999, "How ready the kernel is to end this process, -1000 to 1000."),
    Flag("feature-gates", "featureGates", (), "Accepted.", many=True, unused="there are no gates here"),
    Flag("config-sync-period", "configSyncPeriod", "15m", "Accepted.", unused="the API is watched", zero_is_unsaid=True),
    Flag("kube-api-qps", "clientConnection.qps", 5.0, "Accepted.", unused=NO_TUNING, zero_is_unsaid=True),
    Flag("kube-api-burst", "clientConnection.burst", 10, "Accepted.", unused=NO_TUNING, zero_is_unsaid=True),
    Flag("kube-api-content-type", "clientConnection.contentType", "", "Accepted.", unused="JSON is spoken"),
    Flag("profiling", "enableProfiling", OFF, "Accepted.", unused="there is nothing to serve"),
    Flag("show-hidden-metrics-for-version", "showHiddenMetricsForVersion", "", "Accepted.", unused="no metric is hidden"),
    Flag("logging-format", "logging.format", "text", "Accepted.", unused="logs are text"),
    Flag("log-flush-frequency", "logging.flushFrequency", "5s", "Accepted.", unused=NOT_HELD_BACK, zero_is_unsaid=True),
    *(flag for form in ("json", "text") for flag in (
        Flag(f"log-{form}-info-buffer-size", f"logging.options.{form}.infoBufferSize", "0", "Accepted.", unused=NOT_HELD_BACK),
        Flag(f"log-{form}-split-stream", f"logging.options.{form}.splitStream", OFF, "Accepted.", unused="logs are one stream"),
    )),
    Flag("boot-id-file", "", "", "Accepted.", unused=NOT_NEEDED),
    Flag("machine-id-file", "", "", "Accepted.", unused=NOT_NEEDED),
)
MODE_SECTIONS = ("iptables", "nftables", "ipvs")
IGNORED_SECTIONS = ("winkernel",)  # of the file, with every field in them
