"""What pip and uv say in many lines when they fail, in one."""

from __future__ import annotations

import re
import sys

from flyte_jupyter.engines.packages import PackageLayer
from flyte_jupyter.errors import ImageError

_OFFLINE = re.compile(
    r"Failed to establish a new connection|Temporary failure in name resolution|NewConnectionError"
    r"|Network is unreachable|dns error|Could not connect|ConnectTimeoutError|error sending request"
)
_UNKNOWN = re.compile(
    r"requirement (\S+) .{,40}\(from versions: none\)"
    r"|(\S+) was not found in the package registry"
)
_NO_VERSION = re.compile(
    r"No matching distribution found for (\S+)|there (?:is|are) no versions? of (\S+)"
)
_CONFLICT = re.compile(
    r"The conflict is caused by: (?P<pip>.*?)(?: Additional | To fix this|$)"
    r"|No solution found.*?(?P<uv>Because .*?)(?: hint:|$)"
)
_PASSWORD = re.compile(r"://[^@/\s]+@")
_NOT_BUILT = re.compile(r"(\S[^\n]*)\n[^\n]*\[end of output\]")


def explained(layer: PackageLayer, output: str) -> ImageError:
    """Return the error that says what an installer's output means.

    Parameters
    ----------
    layer
        What was to be installed.
    output
        All that the installer wrote.
    """
    seen, fix = _meaning(layer, output)
    seen = _PASSWORD.sub("://****@", seen)
    return ImageError(f"packages of {layer.origin} cannot be installed", seen=seen, fix=fix)


def _meaning(layer: PackageLayer, output: str) -> tuple[str, str]:
    text = " ".join(re.sub(r"[\u00d7\u2570\u2500\u25b6\u2502]+", " ", output).split())
    if _OFFLINE.search(text):
        asked = ", ".join([*layer.requirements, *layer.files])
        return (
            f"the package index cannot be reached, and {asked} is not all in this environment",
            "Connect, or install it in the kernel's environment.",
        )
    if unknown := _first(_UNKNOWN, text):
        name = re.split(r"[^a-zA-Z0-9._-]", unknown)[0]
        return (
            f"no index has {unknown}",
            "Correct it; or, where the notebook itself defines what it has, type: "
            f"%config FlyteJupyter.provided_packages = [{name!r}]",
        )
    if missing := _first(_NO_VERSION, text):
        python = ".".join(map(str, sys.version_info[:2]))
        return f"there is no {missing} for Python {python}", "Ask for another version."
    if reasons := _first(_CONFLICT, text):
        reasons = reasons.replace("The user requested (constraint)", "the kernel has")
        return (
            f"they do not go with the kernel's: {reasons}",
            "Ask for other versions, or change the kernel's environment.",
        )
    if built := _NOT_BUILT.search(output):
        reason = built[1].strip(" \u2502")
        return f"one cannot be built from its source: {reason}", ""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
    return " ".join(errors[:2]) or "the installer said nothing", ""


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return next(filter(None, found.groups()), "") if found else ""
