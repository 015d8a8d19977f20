"""`minik8s etcd-watchdog`: tells systemd, in the name of the etcd it runs beside, that this etcd answers.

    GET /version    a new connection each time, a quarter of the watchdog's period apart; etcd answers it out of memory

Only silence is a hang. Whatever is said (a refusal, an alert, 503) was said by a process that runs: a disk that stands still,
a quorum that is lost and a certificate that is not liked are not mended by a restart. Why so: docs/explanation/decisions.md.
Must not know: etcd's data. Read next: `packaging/systemd/minik8s-etcd.service`.
"""

from __future__ import annotations

import http.client
import os
import ssl
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import click

from nodecore.daemon.systemd import notify

ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
DEFAULT = "http://localhost:2379"  # etcd's own
PERIOD = 60.0


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Tell systemd for as long as the etcd of this unit answers; its ETCD_ variables say where and how."""
    url = place(os.environ)
    context = side(os.environ) if url and url.scheme == "https" else None
    pause = int(os.environ.get("WATCHDOG_USEC") or PERIOD * 1e6) / 4e6
    while True:
        if url is None or answers(url, context, pause):
            notify("WATCHDOG=1")
        else:
            say(f"{url.geturl()}: no answer in {pause:g} s")
        time.sleep(pause)


def say(text: str) -> None:
    """A line for the journal."""
    click.echo(f"etcd-watchdog: {text}", err=True)


def place(environment: Mapping[str, str]) -> SplitResult | None:
    """Where etcd listens for clients, as it can be reached from here; None, and etcd is not judged, where that is not known."""
    text = (environment.get("ETCD_LISTEN_CLIENT_URLS") or DEFAULT).partition(",")[0].strip()
    url = urlsplit(text)
    try:
        host, port = url.hostname or "", url.port or 2379
    except ValueError:
        host, port = "", 0
    if url.scheme not in ("http", "https") or not host:
        say(f"ETCD_LISTEN_CLIENT_URLS: {text!r} is no http:// or https:// address: not watched")
        return None
    host = ANY.get(host, host)
    return url._replace(netloc=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", path="/version")


def side(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Our side of TLS: etcd's own certificate, which is its peers' client certificate as well; nothing secret is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate := environment.get("ETCD_CERT_FILE"):
        try:
            context.load_cert_chain(certificate, environment.get("ETCD_KEY_FILE"))
        except (OSError, ssl.SSLError) as error:
            say(f"{certificate}: {error}: asking without")
    return context


def answers(url: SplitResult, context: ssl.SSLContext | None, patience: float) -> bool:
    """Whether anything came back in time."""
    host, port = url.hostname or "", url.port
    asked = http.client.HTTPSConnection(host, port, timeout=patience, context=context) if context else \
        http.client.HTTPConnection(host, port, timeout=patience)
    try:
        asked.request("GET", url.path)
        asked.getresponse().read()
    except TimeoutError:
        return False
    except (OSError, http.client.HTTPException):
        return True
    finally:
        asked.close()
    return True
