"""Links to a cluster's web pages, as the user's browser can reach them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from urllib.parse import urlsplit


def reachable(links: Mapping[str, str]) -> dict[str, str]:
    """Turn addresses on this machine into ones that work where the notebook is looked at.

    Behind JupyterHub or another remote server the browser cannot reach a port on loopback;
    jupyter-server-proxy, where it is installed, carries it under the server's own address.

    Parameters
    ----------
    links
        Addresses by title.
    """
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX") or os.environ.get("FLYTE_JUPYTER_BASE_URL")
    if not prefix or importlib.util.find_spec("jupyter_server_proxy") is None:
        return dict(links)
    return {title: _proxied(url, prefix) for title, url in links.items()}


def _proxied(url: str, prefix: str) -> str:
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost") or parts.port is None:
        return url
    return f"{prefix.rstrip('/')}/proxy/{parts.port}{parts.path}"
