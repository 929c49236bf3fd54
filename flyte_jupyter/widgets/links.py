"""Links to a cluster's web pages, as the user's browser can reach them."""

from __future__ import annotations

import html
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from jupyter_core.paths import jupyter_runtime_dir


def reachable(links: Mapping[str, str]) -> dict[str, str]:
    """Turn addresses on this machine into ones that work where the notebook is looked at.

    A browser on another machine cannot reach a port on loopback. jupyter-server-proxy, where it is
    installed, carries it under the address of the notebook server that the page comes from.

    Parameters
    ----------
    links
        Addresses by title.
    """
    base = server_base()
    if base is None or importlib.util.find_spec("jupyter_server_proxy") is None:
        return dict(links)
    return {title: _proxied(url, base) for title, url in links.items()}


def anchors(links: Mapping[str, str]) -> str:
    """Return links as HTML."""
    return " ".join(
        f'<a href="{html.escape(url)}" target="_blank">{html.escape(title)}</a>'
        for title, url in links.items()
    )


def server_base() -> str | None:
    """Return the path under which the notebook server of this kernel answers; None without one."""
    if prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        return prefix
    # A server tells its kernels its pid, and writes its address where that pid finds it.
    info = Path(jupyter_runtime_dir()) / f"jpserver-{os.environ.get('JPY_PARENT_PID')}.json"
    try:
        base: str = json.loads(info.read_text())["base_url"]
    except (OSError, ValueError, KeyError):
        return None
    return base


def _proxied(url: str, base: str) -> str:
    parts = urlsplit(url)
    if parts.hostname not in ("127.0.0.1", "localhost") or parts.port is None:
        return url
    return f"{base.rstrip('/')}/proxy/{parts.port}{parts.path}"
