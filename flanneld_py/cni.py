#!/usr/bin/python3 -IS
"""The `flannel` CNI plugin: turns this node's subnet.env into a configuration for another plugin, and hands over to that.

    runtime --ADD--> flannel --ADD--> bridge (or what `delegate.type` says) --> host-local

Starts once per pod, so it is one file, standard library only, few imports, and ADD ends by becoming the delegate.
What was delegated is kept in `dataDir`/<container>, so that DEL and CHECK do the same whatever became of subnet.env.

    {"type": "flannel", "name": "cbr0", "cniVersion": "1.0.0", "delegate": {"hairpinMode": true, "isDefaultGateway": true}}

Keys of ours: subnetFile, dataDir, delegate, ipam (merged into the delegate's), runtimeConfig (passed on).
Must not know: the rest of this package. Read next: `flanneld_py/subnetfile.py`, which writes what is read here.
"""

import json
import os
import sys

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUBNET_FILE = "/run/flannel/subnet.env"
DATA_DIR = "/var/lib/cni/flannel"
NEEDED = ("FLANNEL_MTU", "FLANNEL_IPMASQ")
BAD_CONTENT, BAD_ENVIRONMENT, TRY_AGAIN, NOT_AVAILABLE, OTHER = 7, 4, 11, 50, 999


class CniError(Exception):
    """What the runtime is told: a code of the CNI specification and a line."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def main() -> None:
    """Do what CNI_COMMAND says."""
    version = VERSIONS[-2]
    try:
        command = os.environ.get("CNI_COMMAND", "")
        if command == "VERSION":
            print(json.dumps({"cniVersion": version, "supportedVersions": VERSIONS}))
            return
        conf = read_conf(sys.stdin.buffer.read())
        version = conf.get("cniVersion") or VERSIONS[0]
        commands = {"ADD": add, "DEL": delete, "CHECK": check, "STATUS": status}
        if command not in commands:
            raise CniError(BAD_ENVIRONMENT, f"CNI_COMMAND is {command!r}: ADD, DEL, CHECK, STATUS or VERSION is wanted")
        commands[command](conf)
    except CniError as error:
        print(json.dumps({"cniVersion": version, "code": error.code, "msg": f"flannel: {error}"}))
        sys.exit(1)


def read_conf(raw: bytes) -> dict:  # type: ignore[type-arg]
    """The network configuration the runtime writes to our stdin."""
    try:
        conf = json.loads(raw)
    except ValueError as error:
        raise CniError(6, f"the network configuration is not JSON: {error}") from None
    if not isinstance(conf, dict):
        raise CniError(6, "the network configuration is not a JSON object")
    return conf


def add(conf: dict) -> None:  # type: ignore[type-arg]
    """Work out the delegate's configuration, keep it, and become the delegate."""
    delegate = render(conf, read_subnet_file(conf.get("subnetFile") or SUBNET_FILE))
    path = kept_path(conf)
    plugin = find_plugin(delegate["type"])
    text = json.dumps(delegate).encode()
    keep(path, text)
    become(plugin, text)


def delete(conf: dict) -> None:  # type: ignore[type-arg]
    """Let the delegate take down what it set up; nothing kept means nothing to do."""
    path = kept_path(conf)
    text = kept(path)
    if text is None:
        return
    code = call(find_plugin(json.loads(text)["type"]), text)
    if code:
        sys.exit(code)
    if os.path.exists(path):
        os.unlink(path)


def check(conf: dict) -> None:  # type: ignore[type-arg]
    """Let the delegate look whether all is as it left it."""
    text = kept(kept_path(conf))
    if text is None:
        raise CniError(OTHER, f"nothing is known of container {os.environ.get('CNI_CONTAINERID')}")
    delegate = json.loads(text)
    if "prevResult" in conf:
        delegate["prevResult"] = with_gateways(conf["prevResult"])
    become(find_plugin(delegate["type"]), json.dumps(delegate).encode())


def with_gateways(result: dict) -> dict:  # type: ignore[type-arg]
    """An ADD's result whose routes all say their gateway: without one, bridge's CHECK does not find what its ADD wrote."""
    gateways = {":" in ip["address"]: ip["gateway"] for ip in result.get("ips", []) if ip.get("gateway")}
    routes = [
        route if route.get("gw") or (":" in route["dst"]) not in gateways else {**route, "gw": gateways[":" in route["dst"]]}
        for route in result.get("routes", [])
    ]
    return {**result, "routes": routes}


def status(conf: dict) -> None:  # type: ignore[type-arg]
    """Whether an ADD could work now."""
    try:
        render(conf, read_subnet_file(conf.get("subnetFile") or SUBNET_FILE))
        find_plugin((conf.get("delegate") or {}).get("type", "bridge"))
    except CniError as error:
        raise CniError(NOT_AVAILABLE, str(error)) from None


def read_subnet_file(path: str) -> dict:  # type: ignore[type-arg]
    """The values flanneld wrote."""
    try:
        with open(path) as file:
            values = dict(line.strip().split("=", 1) for line in file if "=" in line)
    except FileNotFoundError:
        raise CniError(TRY_AGAIN, f"{path} is not there (yet): is flanneld running?") from None
    except OSError as error:
        raise CniError(OTHER, f"{path}: {error.strerror}") from None
    missing = [name for name in NEEDED if name not in values]
    if not ("FLANNEL_SUBNET" in values or "FLANNEL_IPV6_SUBNET" in values):
        missing.append("FLANNEL_SUBNET")
    if missing:
        raise CniError(TRY_AGAIN, f"{path} lacks {', '.join(missing)}")
    return values


def render(conf: dict, values: dict) -> dict:  # type: ignore[type-arg]
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


def render_ipam(given: dict, values: dict) -> dict:  # type: ignore[type-arg]
    """host-local on this node's subnet, with routes to the whole network."""
    ipam = {"type": "host-local", **given}
    subnets = [values[name] for name in ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET") if name in values]
    networks = [values[name] for name in ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK") if name in values]
    ipam["ranges"] = [[{"subnet": masked(subnet)}] for subnet in subnets]
    ipam["routes"] = [*given.get("routes", []), *({"dst": net} for text in networks for net in text.split(","))]
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


def kept_path(conf: dict) -> str:  # type: ignore[type-arg]
    """Where the delegate's configuration of this container is kept."""
    container = os.environ.get("CNI_CONTAINERID", "")
    if not container or "/" in container:
        raise CniError(BAD_ENVIRONMENT, f"CNI_CONTAINERID {container!r} is not a container's name")
    return os.path.join(conf.get("dataDir") or DATA_DIR, container)


def keep(path: str, text: bytes) -> None:
    """Write the delegate's configuration, for us alone."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
    except OSError as error:
        raise CniError(OTHER, f"{path}: {error.strerror}") from None


def kept(path: str) -> bytes | None:
    """The delegate's configuration, None if there is none (or only half of one: a crash in the middle)."""
    try:
        with open(path, "rb") as file:
            text = file.read()
        json.loads(text)["type"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None
    return text


def find_plugin(name: str) -> str:
    """The delegate's file, from CNI_PATH."""
    places = os.environ.get("CNI_PATH", "").split(":")
    if "/" not in name:
        for place in places:
            path = os.path.join(place, name)
            if place and os.access(path, os.X_OK):
                return path
    raise CniError(NOT_AVAILABLE, f"no plugin {name!r} in CNI_PATH {':'.join(places)!r}")


def become(plugin: str, text: bytes) -> None:
    """Turn this process into the plugin, with the text on its stdin."""
    os.dup2(stdin_of(text), 0)
    os.execv(plugin, [plugin])


def call(plugin: str, text: bytes) -> int:
    """Run the plugin and wait; returns its exit code."""
    descriptor = stdin_of(text)
    child = os.posix_spawn(plugin, [plugin], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, descriptor, 0)])
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stdin_of(text: bytes) -> int:
    """A file in memory that holds the text, to read from the start."""
    descriptor = os.memfd_create("cni")
    os.write(descriptor, text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


if __name__ == "__main__":
    main()
