"""Which addresses may be connected to: names are resolved once, each address is judged, and that very address is used.

A name is never judged by its spelling: `0x7f.1`, `2130706433`, `localhost.` and a public name that points to
127.0.0.1 all come out of the resolver as the same address. What is checked is what is connected to, so a second answer
of the resolver (rebinding) changes nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import threading

from distribute.transports._base import Refused, Unreachable

Address = tuple[socket.AddressFamily, str, int]  # family, numeric address, port
MOST_ADDRESSES = 8  # of one name that are tried

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")


def is_public(address: str) -> bool:
    """Whether a numeric address belongs to the public internet, also when it is wrapped in another kind of address."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = _inside(found)
        if inner is not None:
            return is_public(str(inner))
        if found in _NAT64_LOCAL or found.is_site_local:
            return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a mapped, 6to4, Teredo, NAT64 or compatible address leads to."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def lookup(host: str, port: int) -> list[Address]:
    """All addresses of a name, as the system's resolver orders them. Raises OSError. Tests put their own in its place."""
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, str(sockaddr[0]), port) for family, _, _, _, sockaddr in answers]


def resolve(host: str, port: int, *, allow_private: bool, seconds: float) -> list[Address]:
    """The addresses of `host` that may be connected to, at most MOST_ADDRESSES.

    Raises Unreachable when there is no answer within `seconds`, Refused when every address is private.
    """
    found = _within(host, port, seconds)
    allowed = [a for a in found if allow_private or is_public(a[1])]
    if not allowed:
        shown = found[0][1]
        raise Refused(
            f"{host}: its address {shown} is private or local",
            hint="--allow-private lets Headwater connect to addresses inside your own network",
        )
    return list(dict.fromkeys(allowed))[:MOST_ADDRESSES]


def _within(host: str, port: int, seconds: float) -> list[Address]:
    """`lookup` that is not waited for longer than `seconds`; the system's resolver knows no limit."""
    try:
        numeric = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        family = socket.AF_INET if numeric.version == 4 else socket.AF_INET6
        return [(family, str(numeric), port)]
    answer: list[Address] = []
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            answer.extend(lookup(host, port))
        except (OSError, UnicodeError, ValueError) as error:
            failure.append(error)

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Unreachable(f"{host}: the name was not resolved within {seconds:g} s")
    if failure or not answer:
        why = f" ({failure[0]})" if failure else ""
        raise Unreachable(f"{host}: no such name{why}", hint="check the address, and the connection")
    return list(answer)
