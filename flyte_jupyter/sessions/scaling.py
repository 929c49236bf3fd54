"""Which members of a cluster `scale` is about."""

from __future__ import annotations

from flyte_jupyter.engines.engine import ClusterSpec, Role
from flyte_jupyter.errors import ClusterError


def scalable_role(name: str, spec: ClusterSpec | None, group: str) -> Role:
    """Return the role of a cluster whose number of members is to be changed.

    Parameters
    ----------
    name
        The environment's, for what is said.
    spec
        What the cluster consists of.
    group
        Name of the role; empty if it has but one that can be scaled.

    Raises
    ------
    ClusterError
        It has none, or several and none of that name.
    """
    scalable = [role for role in spec.roles if role.scalable] if spec else []
    if not scalable:
        engine = spec.engine if spec else "plain"
        raise ClusterError(
            f"{name} cannot be scaled", seen=f"the {engine} engine has nothing to scale"
        )
    found = [role for role in scalable if group in ("", role.name)]
    if len(found) == 1:
        return found[0]
    raise ClusterError(
        f"{name} has several groups" if found else f"{name} has no group {group!r}",
        seen=f"there are {', '.join(role.name for role in scalable)}",
        fix=f"Type: %flyte scale {name} N --group {scalable[0].name}",
    )
