# SPDX-License-Identifier: GPL-2.0-only
"""TLS as CRIU has it: both sides show a certificate, and each verifies that of the other.

The files and their places are CRIU's. Unless --tls-no-cn-verify says otherwise, the certificate of the other side must
be for the name or address that --address gives – on the server, too, if it has one.
"""

from __future__ import annotations

import ipaddress
import os
import ssl

from pycriu.errors import UserError
from pycriu.pageserver.wire import LinkError
from pycriu.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

CACERT, CACRL = "/etc/pki/CA/cacert.pem", "/etc/pki/CA/cacrl.pem"
CERT, KEY = "/etc/pki/criu/cert.pem", "/etc/pki/criu/private/key.pem"


@record
class Files:
    """The files of one side; None: the default place."""

    cacert: str | None = None
    cacrl: str | None = None
    cert: str | None = None
    key: str | None = None
    verify_name: bool = True


def context(files: Files, *, server: bool) -> ssl.SSLContext:
    """What a handshake needs; UserError where a file is missing or holds something else."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False  # done below, on both sides alike
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if server:
        made.num_tickets = 0  # CRIU takes a session ticket, which it has no use for, for a failure
    cert, key = files.cert or CERT, files.key or KEY
    try:
        made.load_cert_chain(cert, key)
    except OSError as error:
        raise UserError(
            f"--tls-cert {cert}, --tls-key {key}: {_why(error)}", "a certificate and its key, as PEM"
        ) from None
    _trust(made, files)
    return made


def _trust(made: ssl.SSLContext, files: Files) -> None:
    if files.cacert is None:
        made.load_default_certs()
    for name, given, default in (("cacert", files.cacert, CACERT), ("cacrl", files.cacrl, CACRL)):
        path = given or default
        if given is None and not os.access(path, os.R_OK):
            continue
        try:
            made.load_verify_locations(path)
        except OSError as error:
            raise UserError(f"--tls-{name} {path}: {_why(error)}", "a file of certificates, as PEM") from None
        if name == "cacrl":
            made.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def secure(connection: socket.socket, files: Files, address: str | None, *, server: bool) -> ssl.SSLSocket:
    """The handshake; LinkError where the other side is not who it should be."""
    made = context(files, server=server)
    host = None if server else address
    try:
        secured = made.wrap_socket(connection, server_side=server, server_hostname=_name(host))
    except OSError as error:
        raise LinkError(
            f"no TLS with the other side: {_why(error)}", "see --tls-cacert, --tls-cacrl, --tls-cert"
        ) from None
    if files.verify_name and address is not None and not matches(secured.getpeercert() or {}, address):
        secured.close()
        raise LinkError(
            f"the certificate of the other side is not for {address}",
            "give the name that it is for as --address, or --tls-no-cn-verify",
        )
    return secured


def _name(host: str | None) -> str | None:
    """What the client asks for by SNI, which is for names only."""
    return None if host is None or _is_address(host) else host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def matches(certificate: dict[str, Any], host: str) -> bool:
    """Whether a certificate, as ssl shows it, is for `host`: by its alternative names or, if it has none, its CN."""
    others = certificate.get("subjectAltName", ())
    if _is_address(host):
        wanted = ipaddress.ip_address(host)
        if any(kind == "IP Address" and ipaddress.ip_address(value) == wanted for kind, value in others):
            return True
    names = [value for kind, value in others if kind == "DNS"]
    if not others:
        names = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return any(_is_named(name, host) for name in names)


def _is_named(name: str, host: str) -> bool:
    name, host = name.lower().rstrip("."), host.lower().rstrip(".")
    if name.startswith("*.") and not _is_address(host):
        first, dot, rest = host.partition(".")
        return bool(first and dot) and rest == name[2:]
    return name == host


def _why(error: OSError) -> str:
    return getattr(error, "verify_message", "") or error.strerror or str(error)
