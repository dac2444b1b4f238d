"""Whose page sends a request, if a browser does, and whether a request comes from this machine.

A browser sends a page's requests to any address that it can reach, a port on loopback as well. Nothing here
relies on cookies, so a page has no rights of its user beyond those of the address that it comes from:

- A page of another site has another origin: Origin and Sec-Fetch-Site say so.
- A page whose name resolves to 127.0.0.1 (DNS rebinding) has this port as its origin, and its own name in
  Host.
"""

from __future__ import annotations

import ipaddress

from .messages import Handler, Request, Response, text

_PROXIED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


def wrong_site(request: Request) -> str:
    """Return the reason if a browser sends the request for a page of another site; otherwise, an empty
    text.
    """
    site = request.header(b"sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return "a page of another site may not use this port"
    origin = request.header(b"origin")
    # Its scheme is not compared: a proxy may end TLS.
    if origin is not None and origin.lower().partition("://")[2] != (request.header(b"host") or " ").lower():
        return "a page of another site may not use this port: Origin is not this server's"
    return ""


def is_local(request: Request) -> bool:
    """Whether a request comes from this machine, under a name of it, and not through a proxy."""
    return (
        on_loopback(request.peer)
        and _is_loopback_name(request.header(b"host") or "")
        and not _proxied(request)
    )


def is_rebound(request: Request) -> bool:
    """Whether a request comes from this machine, not through a proxy, under a name that may be an attacker's.

    An address in Host is no such name: nobody can make it resolve to another one. Of the headers of proxies,
    only Via counts: browsers do not let scripts set it, and such a page could set the others.
    """
    host = request.header(b"host") or ""
    return (
        on_loopback(request.peer)
        and request.header(b"via") is None
        and not (_is_loopback_name(host) or _is_address(host))
    )


def known_host(handler: Handler) -> Handler:
    """Return `handler`, except that requests on loopback under a name that may be an attacker's get 403."""

    async def checked(request: Request) -> Response:
        if is_rebound(request):
            return text(
                "Forbidden: requests on loopback need localhost or an address in Host; any other name may be "
                "that of a page of another site. A proxy that passes a name on must add the header Via",
                403,
            )
        return await handler(request)

    return checked


def no_browser_from_elsewhere(handler: Handler) -> Handler:
    """Return `handler` for all requests but those that a browser sends for a page of another site, which
    get 403.

    Clients other than browsers send no Origin, and may use any name.
    """

    async def checked(request: Request) -> Response:
        why = wrong_site(request)
        if not why and request.header(b"origin") is not None and is_rebound(request):
            why = "a page on loopback needs localhost or an address in Host"
        return text(f"Forbidden: {why}", 403) if why else await handler(request)

    return checked


def on_loopback(address: str) -> bool:
    """Whether an address is one of loopback."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a name
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _proxied(request: Request) -> bool:
    return any(request.header(name) is not None for name in _PROXIED)


def _name(host: str) -> str:
    """Return the name or the address in Host, without the port; empty if there is something else."""
    if host.startswith("["):
        name, _, port = host[1:].partition("]")
    else:
        name, colon, port = host.partition(":")
        port = colon + port
    return name.lower() if not port or (port[0] == ":" and port[1:].isdecimal()) else ""


def _is_loopback_name(host: str) -> bool:
    name = _name(host)
    return name == "localhost" or name.endswith(".localhost") or on_loopback(name)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(_name(host))
    except ValueError:
        return False
    return True
