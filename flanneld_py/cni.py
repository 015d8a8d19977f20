#!/usr/bin/python3 -IS
"""The `flannel` CNI plugin: turns this node's subnet.env into a configuration for another plugin, and hands over to that.

    runtime --ADD--> flannel --ADD--> bridge (or what `delegate.type` says) --> host-local

Starts once per pod, so it is one file, standard library only, few imports, and ADD ends by becoming the delegate.
What was delegated is kept in `dataDir`/<container>, so that DEL, CHECK and GC do the same whatever became of subnet.env.

    {"type": "flannel", "name": "cbr0", "cniVersion": "1.0.0", "delegate": {"hairpinMode": true, "isDefaultGateway": true}}

Keys of ours: subnetFile, dataDir, delegate, ipam (merged into the delegate's), runtimeConfig (passed on).
Must not know: the rest of this package. Read next: `flanneld_py/subnetfile.py`, which writes what is read here.
"""

from __future__ import annotations

import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Conf = dict[str, Any]

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0"}
NEEDED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"), "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"), "STATUS": ("CNI_PATH",), "GC": ("CNI_PATH",),
}
SHAPES = {"delegate": dict, "ipam": dict, "runtimeConfig": dict, "subnetFile": str, "dataDir": str, "name": str}
SUBNET_FILE = "/run/flannel/subnet.env"
DATA_DIR = "/var/lib/cni/flannel"
BRIDGE = "cni0"  # the plugin's own default
SIOCGIFMTU, SIOCSIFMTU, IFREQ_MTU = 0x8921, 0x8922, "16si20x"
VALUES = ("FLANNEL_MTU", "FLANNEL_IPMASQ")
VALID = "cni.dev/valid-attachments"
OURS = "flannel"  # our own notes in a kept configuration; the delegate does not mind them
BAD_VERSION, UNKNOWN_CONTAINER, BAD_ENVIRONMENT, BAD_IO, BAD_JSON, BAD_CONTENT, TRY_AGAIN, NOT_AVAILABLE, OTHER = (
    1, 3, 4, 5, 6, 7, 11, 50, 999
)


class CniError(Exception):
    """What the runtime is told: a code of the CNI specification and a line."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    """Do what CNI_COMMAND says; whatever goes wrong becomes an error result."""
    version = VERSIONS[0]
    try:
        command = os.environ.get("CNI_COMMAND", "")
        if command == "VERSION":
            print(json.dumps({"cniVersion": VERSIONS[-1], "supportedVersions": VERSIONS}))
            return
        if command not in NEEDED:
            raise CniError(BAD_ENVIRONMENT, f"CNI_COMMAND is {command!r}: {', '.join(NEEDED)} or VERSION is wanted")
        conf = read_conf(sys.stdin.buffer.read())
        version = read_version(conf, command)
        missing = [name for name in NEEDED[command] if not os.environ.get(name)]
        if missing:
            raise CniError(BAD_ENVIRONMENT, f"{command} needs {', '.join(missing)} in the environment")
        {"ADD": add, "DEL": delete, "CHECK": check, "STATUS": status, "GC": collect}[command](conf)
    except CniError as error:
        fail(version, error.code, str(error))
    except OSError as error:
        fail(version, BAD_IO, f"{error.filename or 'input or output'}: {error.strerror}")
    except Exception as error:
        fail(version, OTHER, f"{type(error).__name__}: {error}")


def fail(version: str, code: int, message: str) -> None:
    """Print an error result and end."""
    print(json.dumps({"cniVersion": version, "code": code, "msg": f"flannel: {message}"}))
    sys.exit(1)


def read_conf(raw: bytes) -> Conf:
    """The network configuration the runtime writes to our stdin."""
    try:
        conf = json.loads(raw)
    except ValueError as error:
        raise CniError(BAD_JSON, f"the network configuration is not JSON: {error}") from None
    if not isinstance(conf, dict):
        raise CniError(BAD_JSON, "the network configuration is not a JSON object")
    for key, shape in SHAPES.items():
        if conf.get(key) is not None and not isinstance(conf[key], shape):
            raise CniError(BAD_CONTENT, f"{key!r} is to be {'an object' if shape is dict else 'a text'}")
    return conf


def read_version(conf: Conf, command: str) -> str:
    """The version the runtime speaks, if we speak it too and it has the command."""
    version = conf.get("cniVersion") or VERSIONS[0]
    if version not in VERSIONS:
        raise CniError(BAD_VERSION, f"cniVersion {version!r} is not one of {', '.join(VERSIONS)}")
    if VERSIONS.index(version) < VERSIONS.index(SINCE.get(command, version)):
        raise CniError(BAD_VERSION, f"{command} is there since cniVersion {SINCE[command]}, the configuration says {version}")
    return str(version)


def add(conf: Conf) -> None:
    """Work out the delegate's configuration, keep it, and become the delegate."""
    delegate = render(conf, read_subnet_file(conf))
    plugin = find_plugin(delegate["type"])
    keep(kept_path(conf), json.dumps({**delegate, OURS: {"ifName": os.environ["CNI_IFNAME"]}}).encode())
    if delegate["type"] == "bridge":
        narrow(str(delegate.get("bridge") or BRIDGE), delegate["mtu"])
    become(plugin, delegate)


def narrow(bridge: str, mtu: Any) -> None:
    """Have a bridge of the backend before take no larger packets than this one's: the plugin leaves one it finds as it is."""
    import fcntl
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            found = fcntl.ioctl(sock, SIOCGIFMTU, struct.pack(IFREQ_MTU, bridge.encode(), 0))
            if isinstance(mtu, int) and 0 < mtu < struct.unpack(IFREQ_MTU, found)[1]:
                fcntl.ioctl(sock, SIOCSIFMTU, struct.pack(IFREQ_MTU, bridge.encode(), mtu))
        except OSError:
            return  # no bridge yet; or one that is not ours to change, and doctor says so


def delete(conf: Conf) -> None:
    """Let the delegate take down what it set up; nothing kept means nothing to do."""
    path = kept_path(conf)
    delegate = kept(path)
    if delegate is not None:
        code, answer = call(delegate, {})
        if code:
            sys.stdout.buffer.write(answer)
            sys.exit(code)
    remove(path)


def check(conf: Conf) -> None:
    """Whether the pod still has an address of this node's subnet, and all is as the delegate left it."""
    delegate = kept(kept_path(conf))
    if delegate is None:
        raise CniError(UNKNOWN_CONTAINER, f"nothing is known of container {os.environ['CNI_CONTAINERID']}")
    if not isinstance(conf.get("prevResult"), dict):
        raise CniError(BAD_CONTENT, "CHECK needs the 'prevResult' of ADD")
    then, now = delegate["ipam"].get("ranges"), render_ipam({}, read_subnet_file(conf))["ranges"]
    if then != now:
        raise CniError(OTHER, f"the container has an address of {subnets(then)}, this node has {subnets(now)} now")
    become(find_plugin(delegate["type"]), {**delegate, "prevResult": with_gateways(conf["prevResult"])})


def subnets(ranges: Any) -> str:
    """The subnets of host-local's `ranges`, in words."""
    return " and ".join(str(block[0]["subnet"]) for block in ranges or ()) or "no subnet"


def with_gateways(result: Conf) -> Conf:
    """An ADD's result whose routes all say their gateway: without one, bridge's CHECK does not find what its ADD wrote."""
    gateways = {":" in ip["address"]: ip["gateway"] for ip in result.get("ips") or () if ip.get("gateway")}
    routes = [
        route if route.get("gw") or (":" in route["dst"]) not in gateways else {**route, "gw": gateways[":" in route["dst"]]}
        for route in result.get("routes") or ()
    ]
    return {**result, "routes": routes}


def status(conf: Conf) -> None:
    """Whether an ADD could work now; from 1.1.0 on, as the delegate sees it too."""
    try:
        delegate = render(conf, read_subnet_file(conf))
        plugin = find_plugin(delegate["type"])
    except CniError as error:
        raise CniError(NOT_AVAILABLE, str(error)) from None
    if delegate.get("cniVersion") == VERSIONS[-1]:
        become(plugin, delegate)


def collect(conf: Conf) -> None:
    """Delete what is kept of this network's containers that are gone, and let the delegate do the same; go on past errors."""
    if not isinstance(conf.get(VALID), list):
        raise CniError(BAD_CONTENT, f"GC needs the list {VALID!r}")
    valid = {attachment.get("containerID") for attachment in conf[VALID]}
    directory = conf.get("dataDir") or DATA_DIR
    trouble = []
    for container in sorted(os.listdir(directory)) if os.path.isdir(directory) else ():
        path = os.path.join(directory, container)
        delegate = kept(path)
        if container in valid or delegate is None or delegate.get("name") != conf.get("name"):
            continue
        name = (delegate.get(OURS) or {}).get("ifName", "eth0")
        code, answer = call(
            delegate, {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": container, "CNI_IFNAME": name, "CNI_NETNS": ""}
        )
        if code:
            trouble.append(f"{container}: {said(answer)}")
        else:
            remove(path)
    code, answer = call({**render(conf, read_subnet_file(conf)), VALID: conf[VALID]}, {})
    if code:
        trouble.append(said(answer))
    if trouble:
        raise CniError(OTHER, "; ".join(trouble))


def said(answer: bytes) -> str:
    """The message of a delegate's error result."""
    try:
        return str(json.loads(answer)["msg"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip() or "the delegate failed and says nothing"


def read_subnet_file(conf: Conf) -> dict[str, str]:
    """The values flanneld wrote."""
    path = conf.get("subnetFile") or SUBNET_FILE
    try:
        with open(path) as file:
            values = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except FileNotFoundError:
        raise CniError(TRY_AGAIN, f"{path} is not there (yet): is flanneld running?") from None
    missing = [name for name in VALUES if name not in values]
    if not ("FLANNEL_SUBNET" in values or "FLANNEL_IPV6_SUBNET" in values):
        missing.append("FLANNEL_SUBNET")
    if missing:
        raise CniError(TRY_AGAIN, f"{path} lacks {', '.join(missing)}")
    return values


def render(conf: Conf, values: Mapping[str, str]) -> Conf:
    """The delegate's configuration: pure."""
    delegate = dict(conf.get("delegate") or {})
    for key in ("name", "ipam"):
        if key in delegate:
            raise CniError(BAD_CONTENT, f"'delegate' may not have {key!r}: flannel sets it")
    if not isinstance(delegate.setdefault("type", "bridge"), str):
        raise CniError(BAD_CONTENT, "'delegate' must have a text for its 'type'")
    delegate["name"] = conf.get("name", "")
    if conf.get("cniVersion"):
        delegate["cniVersion"] = conf["cniVersion"]
    if conf.get("runtimeConfig"):
        delegate["runtimeConfig"] = conf["runtimeConfig"]
    try:
        delegate.setdefault("mtu", int(values["FLANNEL_MTU"]))
    except ValueError:
        raise CniError(TRY_AGAIN, f"FLANNEL_MTU={values['FLANNEL_MTU']} is not a number") from None
    delegate.setdefault("ipMasq", values["FLANNEL_IPMASQ"] != "true")
    if delegate["type"] == "bridge":
        delegate.setdefault("isGateway", True)
    delegate["ipam"] = render_ipam(conf.get("ipam") or {}, values)
    return delegate


def render_ipam(given: Conf, values: Mapping[str, str]) -> Conf:
    """host-local on this node's subnet, with routes to the whole network."""
    ipam = {"type": "host-local", **given}
    owned = [values[name] for name in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if name in values]
    networks = [values[name] for name in ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK") if name in values]
    ipam["ranges"] = [[{"subnet": masked(subnet)}] for subnet in owned]
    ipam["routes"] = [*(given.get("routes") or ()), *({"dst": net} for text in networks for net in text.split(","))]
    return ipam


def masked(subnet: str) -> str:
    """10.5.3.1/24 -> 10.5.3.0/24, without the price of importing ipaddress."""
    import socket

    address, _, length = subnet.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
        keep_bits = len(packed) * 8 - int(length)
        number = int.from_bytes(packed, "big") >> keep_bits << keep_bits
        return f"{socket.inet_ntop(family, number.to_bytes(len(packed), 'big'))}/{length}"
    except (OSError, ValueError):
        raise CniError(TRY_AGAIN, f"{subnet!r} in subnet.env is not a subnet") from None


def kept_path(conf: Conf) -> str:
    """Where the delegate's configuration of this container is kept."""
    container = os.environ["CNI_CONTAINERID"]
    if "/" in container or container in (".", ".."):
        raise CniError(BAD_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is not a container's name")
    return os.path.join(conf.get("dataDir") or DATA_DIR, container)


def keep(path: str, text: bytes) -> None:
    """Write the delegate's configuration, for us alone."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)


def kept(path: str) -> Conf | None:
    """The delegate's configuration, None if there is none (or only half of one: a crash in the middle)."""
    try:
        with open(path, "rb") as file:
            delegate = json.loads(file.read())
        return delegate if isinstance(delegate["type"], str) else None
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError):
        return None


def remove(path: str) -> None:
    """Forget a container, if it is known at all."""
    if os.path.exists(path):
        os.unlink(path)


def find_plugin(name: str) -> str:
    """The delegate's file, from CNI_PATH."""
    places = os.environ.get("CNI_PATH", "").split(":")
    if "/" not in name:
        for place in places:
            path = os.path.join(place, name)
            if place and os.access(path, os.X_OK) and os.path.isfile(path):
                return path
    raise CniError(NOT_AVAILABLE, f"no plugin {name!r} in CNI_PATH {':'.join(places)!r}")


def become(plugin: str, delegate: Conf) -> None:
    """Turn this process into the plugin, with the configuration on its stdin."""
    os.dup2(in_memory(json.dumps(delegate).encode()), 0)
    os.execv(plugin, [plugin])


def call(delegate: Conf, environment: Mapping[str, str]) -> tuple[int, bytes]:
    """Run the delegate and wait; returns its exit code and what it printed."""
    plugin = find_plugin(delegate["type"])
    given, answer = in_memory(json.dumps(delegate).encode()), in_memory(b"")
    actions = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, answer, 1)]
    child = os.posix_spawn(plugin, [plugin], {**os.environ, **environment}, file_actions=actions)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.lseek(answer, 0, os.SEEK_SET)
    with os.fdopen(answer, "rb") as file:
        return code, file.read()


def in_memory(text: bytes) -> int:
    """A file in memory that holds the text, to read from the start."""
    descriptor = os.memfd_create("cni")
    os.write(descriptor, text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


if __name__ == "__main__":
    main()
