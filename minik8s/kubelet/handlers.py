"""Does what probes and lifecycle hooks ask for: run a command, fetch a URL, open a connection.

HTTP is spoken by hand (a request line and a status line): a client library would cost more than the probe.
Must not know: what an outcome leads to. Read next: `minik8s/kubelet/probes.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodecore.errors import Fault

from .cri import Runtime
from .records import Container


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it went well, and what was said if not."""

    ok: bool
    message: str = ""


async def handle(runtime: Runtime, handler: Mapping[str, Any], spec: Mapping[str, Any], run: Container, pod_ip: str,
                 timeout: float) -> Outcome:
    """Carry out an exec, httpGet, tcpSocket or sleep handler."""
    try:
        async with asyncio.timeout(timeout + 1):
            if "exec" in handler:
                code, output = await runtime.exec_sync(run.id, handler["exec"].get("command") or [], timeout)
                return Outcome(code == 0, output[:1024].decode(errors="replace"))
            if "sleep" in handler:
                await asyncio.sleep(float(handler["sleep"]["seconds"]))
                return Outcome(ok=True)
            async with asyncio.timeout(timeout):
                if "httpGet" in handler:
                    return await _http_get(handler["httpGet"], spec, pod_ip)
                return await _connect(handler["tcpSocket"], spec, pod_ip)
    except TimeoutError:
        return Outcome(ok=False, message=f"timed out after {timeout:g} s")
    except (OSError, Fault) as error:
        return Outcome(ok=False, message=str(error))


def port_number(port: Any, spec: Mapping[str, Any]) -> int:
    """A port by number or by its name in the container."""
    if isinstance(port, int) or str(port).isdecimal():
        return int(port)
    for entry in spec.get("ports") or []:
        if entry.get("name") == port:
            return int(entry["containerPort"])
    raise Fault(f"port {port} is not declared by the container")


async def _connect(action: Mapping[str, Any], spec: Mapping[str, Any], pod_ip: str) -> Outcome:
    _, writer = await asyncio.open_connection(action.get("host") or pod_ip, port_number(action["port"], spec))
    writer.close()
    return Outcome(ok=True)


async def _http_get(action: Mapping[str, Any], spec: Mapping[str, Any], pod_ip: str) -> Outcome:
    host, port = action.get("host") or pod_ip, port_number(action["port"], spec)
    context = None
    if str(action.get("scheme") or "HTTP").upper() == "HTTPS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write(_request(action, host, port))
        line = (await reader.readline()).decode("latin-1").split(" ", 2)
        code = int(line[1]) if len(line) > 1 and line[0].startswith("HTTP/") and line[1].isdecimal() else 0
        if 200 <= code < 400:
            return Outcome(ok=True)
        return Outcome(ok=False, message=f"HTTP probe failed with statuscode: {code}" if code else "not an HTTP answer")
    finally:
        writer.close()


def _request(action: Mapping[str, Any], host: str, port: int) -> bytes:
    path = action.get("path") or "/"
    headers = {"Host": f"[{host}]:{port}" if ":" in host else f"{host}:{port}", "User-Agent": "kube-probe/1.33", "Accept": "*/*"}
    headers |= {item["name"]: item["value"] for item in action.get("httpHeaders") or []}
    lines = [f"GET {path if path.startswith('/') else '/' + path} HTTP/1.1"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1", errors="replace")
