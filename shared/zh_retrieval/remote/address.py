"""Where a server is, and the key it asks for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


@dataclass(frozen=True, slots=True)
class Address:
    """A server, its key and the patience with it.

    Attributes:
        url: Scheme, host, port and what a proxy put before our paths, without a slash at the end.
        key: Sent as `Authorization: Bearer`; in no repr and no message.
        timeout: Seconds that one request may take, with all that is tried again.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout: float = 120.0

    @property
    def host(self) -> str:
        """Return the host as it stands in an address."""
        host = urlsplit(self.url).hostname or ""
        return f"[{host}]" if ":" in host else host

    @property
    def is_near(self) -> bool:
        """Return True for this machine and private networks, which a proxy for the internet does not reach."""
        host = self.host.strip("[]").rstrip(".")
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            return "." not in host or host.endswith((".local", ".internal", ".localhost"))
        found = getattr(found, "ipv4_mapped", None) or found
        return found.is_private or found.is_loopback or found.is_link_local

    def proxy(self) -> str | None:
        """Return the proxy that the environment names for this address; None for near ones, and where none is named."""
        if self.is_near or proxy_bypass(self.host.strip("[]")):
            return None
        proxies = getproxies()
        named = proxies.get(urlsplit(self.url).scheme) or proxies.get("all")
        return named if not named or "://" in named else f"http://{named}"
