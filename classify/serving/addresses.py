"""Where the page is: the address that is listened on, and the names under which it may be asked."""

import errno
import ipaddress
import socket
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from extract.system.console import InputError

WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Hosts that stand for every address of this machine, each with its address on this machine."""

USUAL = (
    "give --host 127.0.0.1 for this machine only, or --host 0.0.0.0 for all addresses of this "
    "machine"
)


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address of this machine.

    Raises
    ------
    InputError
        If `host` is not such an address, or the port is in use or not allowed.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]") or "?", port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(address[:2], family=family, dualstack_ipv6=both)
    except (socket.gaierror, UnicodeError) as error:
        raise InputError(f"--host {host}: not an address of this machine; {USUAL}") from error
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            raise InputError(f"--host {host}: not an address of this machine; {USUAL}") from error
        reason = error.strerror or error
        raise InputError(f"{host}:{port}: {reason}; choose another with --port") from error


def url(host: str, port: int) -> str:
    """Return the address of the page as a browser on this machine takes it."""
    host = host.strip("[]")
    host = WILDCARDS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_for_all(host: str) -> bool:
    """Say whether a host stands for every address of this machine."""
    return host.strip("[]") in WILDCARDS


def is_loopback(host: str) -> bool:
    """Say whether only this machine can ask a host."""
    return host.strip("[]") in ("localhost", "::1") or host.startswith("127.")


def is_ours(asked: str, *, host: str) -> bool:
    """Say whether a Host header may name this server, which listens on `host`.

    Another web site may make a name of its own point to this machine and then read the page. It
    cannot do so with an address, because the browser then asks that address.
    """
    try:
        name = (urlsplit(f"//{asked}").hostname or "").rstrip(".")
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        own = socket.gethostname().lower()
        return name in {"localhost", own, f"{own}.local", host.lower()}
    return True


def is_from_elsewhere(headers: Headers) -> bool:
    """Say whether a browser sends a request for a page of another site.

    Programs that are no browsers send neither header, and are believed.
    """
    if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = headers.get("Origin")
    return origin is not None and origin != f"http://{headers.get('Host')}"
