"""The one-off child: `python -m minik8s.pki.own DIR --name NAME ...` keeps the certificates of a server that was given none.

    ca.crt, ca.key                            made once; anew, by the same key, when two thirds of its time are over
    apiserver.crt, apiserver.key              anew when they are not the CA's, lack a name, or two thirds of their time are over
    admin.crt, admin.key, admin.kubeconfig    the same; by them somebody of system:masters finds the server

Prints in how many seconds it should be run again. A child, because `cryptography` would stay in the server for good.
Read next: `authority.py`; `minik8s/apiserver/own_certificates.py`, which runs this.
"""

from __future__ import annotations

import datetime
from contextlib import suppress
from pathlib import Path

import click
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from minik8s.pki.authority import Authority, Identity, Pair, general
from minik8s.pki.kubeconfig import kubeconfig
from nodecore.daemon.entry import run
from nodecore.errors import UserError

YEAR = datetime.timedelta(days=365)
SOONEST = 1.0


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--name", "names", multiple=True, help="A name or address to serve; repeatable.")
@click.option("--server", default="", help="The URL that the kubeconfig names.")
def command(directory: Path, names: tuple[str, ...], server: str) -> None:
    """Make or renew a server's own certificates."""
    try:
        click.echo(f"{ensure(directory, names, server):.0f}")
    except (OSError, ValueError) as error:
        raise UserError(f"--cert-dir: {directory}: {getattr(error, 'strerror', None) or error}") from None


def ensure(directory: Path, names: tuple[str, ...], server: str) -> float:
    """Make what is missing or due; the seconds until something is due again."""
    directory.mkdir(parents=True, exist_ok=True)
    found = _read(directory, "ca")
    authority = Authority(found)
    if found is None:
        _write(directory, "ca", authority.pair)
    elif left_of(found) <= 0:
        authority = authority.renewed()
        _write(directory, "ca", authority.pair)
    serving, admin = Identity("kube-apiserver", (), names), Identity("kubernetes-admin", ("system:masters",))
    mine, theirs = _kept(directory, "apiserver", authority, serving), _kept(directory, "admin", authority, admin)
    text = kubeconfig(server, authority.pair.certificate, theirs.certificate, theirs.key, admin.common_name, "minik8s")
    put(directory / "admin.kubeconfig", text.encode())
    due = due_in(mine, authority.pair, serving), due_in(theirs, authority.pair, admin), left_of(authority.pair)
    return max(SOONEST, min(due))


def _kept(directory: Path, file: str, authority: Authority, identity: Identity) -> Pair:
    pair = _read(directory, file)
    if pair is None or due_in(pair, authority.pair, identity) <= 0:
        pair = authority.issue(identity, YEAR)
        _write(directory, file, pair)
    return pair


def due_in(pair: Pair, authority: Pair, identity: Identity) -> float:
    """Seconds until a certificate should be replaced; none are left to one that is of no use."""
    certificate, signer = (x509.load_pem_x509_certificate(each.certificate) for each in (pair, authority))
    held: set[x509.GeneralName] = set()
    with suppress(x509.ExtensionNotFound):
        held = set(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature):
        return 0.0
    if not held >= {general(name) for name in identity.names}:
        return 0.0
    return left_of(pair)


def left_of(pair: Pair) -> float:
    """Seconds until two thirds of a certificate's time are over."""
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (begin + (end - begin) * 2 / 3 - datetime.datetime.now(datetime.UTC)).total_seconds()


def _read(directory: Path, name: str) -> Pair | None:
    files = [directory / f"{name}.{ending}" for ending in ("crt", "key")]
    return Pair(*(file.read_bytes() for file in files)) if all(file.exists() for file in files) else None


def _write(directory: Path, name: str, pair: Pair) -> None:
    put(directory / f"{name}.key", pair.key)
    put(directory / f"{name}.crt", pair.certificate)


def put(path: Path, data: bytes) -> None:
    """Write a file as a whole; only certificates are for everybody to read."""
    part = path.with_name(f".{path.name}")
    part.unlink(missing_ok=True)
    part.touch(0o644 if path.suffix == ".crt" else 0o600)
    part.write_bytes(data)
    part.replace(path)


if __name__ == "__main__":
    run(command, "minik8s own certificates")
