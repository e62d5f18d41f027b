"""Where a request comes from."""

from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """The address of the client: the connection's, or, behind proxies (LLMAPI_PROXIES), the one
    that the outermost of them saw. What stands before that in `X-Forwarded-For` the client may have
    written itself. Empty if there is none that can be read."""
    connection = request.META.get("REMOTE_ADDR") or ""
    proxies = settings.LLMAPI.proxies
    if proxies:
        seen = request.headers.get("X-Forwarded-For", "").split(",")[-proxies:]
        return readable(seen[0]) or readable(connection)
    return readable(connection)


def readable(text: str) -> str:
    """An address as it is written usually; some proxies put brackets around it and a port behind.
    Empty if it is none."""
    text = text.strip()
    host, _, port = text.rpartition(":")
    if port.isdecimal() and (host.endswith("]") or ":" not in host):
        text = host
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""


def neighbourhood(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 that a household has of IPv6."""
    if not address:
        return "unknown"
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ip_network((parsed, 64), strict=False))
    return address
