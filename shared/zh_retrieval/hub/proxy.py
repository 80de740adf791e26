"""Proxies that the clients of the hubs cannot use as they are installed: found before anything is asked."""

from __future__ import annotations

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from zh_retrieval.checks import is_installed

_NEEDS = {  # hub -> module of the SOCKS support that its client uses, how to install it, schemes that it takes
    "modelscope": ("socks", "pip install PySocks", ("socks4", "socks4a", "socks5", "socks5h")),
    "huggingface": ("socksio", 'pip install "httpx[socks]"', ("socks5", "socks5h")),
}


def proxy_problem(hub: str, endpoint: str) -> str | None:
    """Return why the proxy of the environment cannot work for a hub, and what to do; None if nothing is known."""
    url = urlsplit(endpoint)
    proxies = getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(url.hostname or ""):
        return None
    scheme = urlsplit(proxy).scheme.lower()
    if not scheme.startswith("socks"):
        return None
    module, install, schemes = _NEEDS[hub]
    remedies = []
    if not is_installed(module):
        remedies.append(f"install {'PySocks' if module == 'socks' else module} (run: {install})")
    if scheme not in schemes:
        remedies.append(f"write socks5h:// instead of {scheme}://")
    if not remedies:
        return None
    return (
        f"the environment (ALL_PROXY, HTTP_PROXY or HTTPS_PROXY) names a {scheme}:// proxy, which the client of {hub} "
        f"cannot use. Either {' and '.join(remedies)}, or take the proxy out of the environment."
    )
