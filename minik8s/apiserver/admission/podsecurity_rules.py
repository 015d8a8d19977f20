"""What a pod breaks of the Pod Security Standards `baseline` and `restricted`, in the words kubectl shows.

Each rule is a function from a pod's spec and metadata to what is wrong; `restricted` is `baseline` and more. Pure.
Must not know: namespaces, requests. Read next: `podsecurity.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Object = dict[str, Any]
Rule = Callable[[Object, Object], Iterator[str]]
CAPABILITIES = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID",
    "SETPCAP", "SETUID", "SYS_CHROOT"})
SYSCTLS = frozenset({
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem"})
SELINUX = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
VOLUMES = frozenset({"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected",
    "secret"})
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def broken(level: str, meta: Object, spec: Object) -> list[str]:
    """Everything a pod breaks of a level."""
    rules = {"baseline": BASELINE, "restricted": (*BASELINE, *RESTRICTED)}.get(level, ())
    return [text for rule in rules for text in rule(meta, spec)]


def containers(spec: Object) -> list[Object]:
    """Every container of whatever sort."""
    return [each for part in ("initContainers", "containers", "ephemeralContainers") for each in spec.get(part) or ()]


def _context(one: Object) -> Object:
    found = one.get("securityContext")
    return found if isinstance(found, dict) else {}


def _named(names: list[Any]) -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    return f"container {listed}" if len(names) == 1 else f"containers {listed}"


def _those(spec: Object, wrong: Callable[[Object], bool]) -> list[Any]:
    return [each.get("name") for each in containers(spec) if wrong(each)]


def _host_namespaces(_meta: Object, spec: Object) -> Iterator[str]:
    there = [f"{name}=true" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)]
    if there:
        yield f"host namespaces ({', '.join(there)})"


def _privileged(_meta: Object, spec: Object) -> Iterator[str]:
    if names := _those(spec, lambda one: bool(_context(one).get("privileged"))):
        yield f"privileged ({_named(names)} must not set securityContext.privileged=true)"


def _capabilities(_meta: Object, spec: Object) -> Iterator[str]:
    def added(one: Object) -> set[str]:
        return set((_context(one).get("capabilities") or {}).get("add") or ()) - CAPABILITIES
    if names := _those(spec, lambda one: bool(added(one))):
        listed = ", ".join(f'"{each}"' for each in sorted(set().union(*map(added, containers(spec)))))
        yield f"non-default capabilities ({_named(names)} must not include {listed} in securityContext.capabilities.add)"


def _host_path(_meta: Object, spec: Object) -> Iterator[str]:
    names = [f'"{each.get("name")}"' for each in spec.get("volumes") or () if each.get("hostPath") is not None]
    if names:
        yield f"hostPath volumes (volume{'s' * (len(names) > 1)} {', '.join(names)})"


def _host_ports(_meta: Object, spec: Object) -> Iterator[str]:
    def ports(one: Object) -> list[int]:
        return [port["hostPort"] for port in one.get("ports") or () if port.get("hostPort")]
    if names := _those(spec, lambda one: bool(ports(one))):
        numbers = sorted({number for one in containers(spec) for number in ports(one)})
        listed = f"hostPort{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
        yield f"hostPort ({_named(names)} use{'s' * (len(names) == 1)} {listed})"


def _apparmor(meta: Object, spec: Object) -> Iterator[str]:
    wrong = [f'{key}="{value}"' for key, value in sorted((meta.get("annotations") or {}).items())
             if key.startswith(APPARMOR) and value not in ("", "runtime/default") and not value.startswith("localhost/")]
    if wrong:
        yield f"forbidden AppArmor profile{'s' * (len(wrong) > 1)} ({', '.join(wrong)})"
    if any((_context(one).get("appArmorProfile") or {}).get("type") == "Unconfined" for one in (spec, *containers(spec))):
        yield "forbidden AppArmor profile (must not set AppArmor profile type to \"Unconfined\")"


def _selinux(_meta: Object, spec: Object) -> Iterator[str]:
    options = [_context(one).get("seLinuxOptions") or {} for one in (spec, *containers(spec))]
    if any(each.get("type", "") not in SELINUX or each.get("user") or each.get("role") for each in options):
        yield "seLinuxOptions (forbidden seLinuxOptions type, user or role)"


def _proc_mount(_meta: Object, spec: Object) -> Iterator[str]:
    if names := _those(spec, lambda one: _context(one).get("procMount", "Default") not in ("", None, "Default")):
        yield f"procMount ({_named(names)} must not set securityContext.procMount to anything but \"Default\")"


def _seccomp(_meta: Object, spec: Object) -> Iterator[str]:
    if any((_context(one).get("seccompProfile") or {}).get("type") == "Unconfined" for one in (spec, *containers(spec))):
        yield "seccompProfile (must not set securityContext.seccompProfile.type to \"Unconfined\")"


def _sysctls(_meta: Object, spec: Object) -> Iterator[str]:
    wrong = [str(each.get("name")) for each in _context(spec).get("sysctls") or () if each.get("name") not in SYSCTLS]
    if wrong:
        yield f"forbidden sysctls ({', '.join(wrong)})"


def _host_process(_meta: Object, spec: Object) -> Iterator[str]:
    if any((_context(one).get("windowsOptions") or {}).get("hostProcess") for one in (spec, *containers(spec))):
        yield "hostProcess (must not set securityContext.windowsOptions.hostProcess=true)"


def _volume_types(_meta: Object, spec: Object) -> Iterator[str]:
    wrong = [(each.get("name"), kind) for each in spec.get("volumes") or ()
             for kind in each if kind != "name" and kind not in VOLUMES]
    if wrong:
        listed = ", ".join(f'"{name}"' for name, _ in wrong)
        kinds = ", ".join(f'"{kind}"' for kind in sorted({kind for _, kind in wrong}))
        yield f"restricted volume types (volume{'s' * (len(wrong) > 1)} {listed} use{'s' * (len(wrong) == 1)} " \
              f"restricted volume type{'s' * (len(wrong) > 1)} {kinds})"


def _escalation(_meta: Object, spec: Object) -> Iterator[str]:
    if names := _those(spec, lambda one: _context(one).get("allowPrivilegeEscalation") is not False):
        yield f"allowPrivilegeEscalation != false ({_named(names)} must set securityContext.allowPrivilegeEscalation=false)"


def _all_dropped(_meta: Object, spec: Object) -> Iterator[str]:
    def wrong(one: Object) -> bool:
        given = _context(one).get("capabilities") or {}
        return "ALL" not in (given.get("drop") or ()) or bool(set(given.get("add") or ()) - {"NET_BIND_SERVICE"})
    if names := _those(spec, wrong):
        yield f"unrestricted capabilities ({_named(names)} must set securityContext.capabilities.drop=[\"ALL\"])"


def _not_root(_meta: Object, spec: Object) -> Iterator[str]:
    whole = _context(spec).get("runAsNonRoot")
    names = _those(spec, lambda one: _context(one).get("runAsNonRoot", whole) is not True)
    if names:
        yield f"runAsNonRoot != true (pod or {_named(names)} must set securityContext.runAsNonRoot=true)"


def _not_user_zero(_meta: Object, spec: Object) -> Iterator[str]:
    if _context(spec).get("runAsUser") == 0 or _those(spec, lambda one: _context(one).get("runAsUser") == 0):
        yield "runAsUser=0 (pod or containers must not set securityContext.runAsUser=0)"


def _seccomp_given(_meta: Object, spec: Object) -> Iterator[str]:
    good, whole = ("RuntimeDefault", "Localhost"), _context(spec).get("seccompProfile") or {}
    names = _those(spec, lambda one: (_context(one).get("seccompProfile") or whole).get("type") not in good)
    if names:
        yield (f"seccompProfile (pod or {_named(names)} must set securityContext.seccompProfile.type to "
               '"RuntimeDefault" or "Localhost")')


BASELINE: tuple[Rule, ...] = (
    _host_namespaces, _privileged, _capabilities, _host_path, _host_ports, _apparmor, _selinux, _proc_mount, _seccomp, _sysctls,
    _host_process)
RESTRICTED: tuple[Rule, ...] = (_volume_types, _escalation, _all_dropped, _not_root, _not_user_zero, _seccomp_given)
