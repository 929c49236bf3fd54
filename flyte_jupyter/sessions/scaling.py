"""Which members of a cluster `scale` is about, and how many of them there may be."""

from __future__ import annotations

from flyte_jupyter.engines.engine import ClusterSpec, Role
from flyte_jupyter.errors import ClusterError


def scalable_role(name: str, spec: ClusterSpec | None, group: str, replicas: int) -> Role:
    """Return the role of a cluster whose number of members is to be changed.

    Parameters
    ----------
    name
        The environment's, for what is said.
    spec
        What the cluster consists of.
    group
        Name of the role; empty if it has but one that can be scaled.
    replicas
        How many members there shall be.

    Raises
    ------
    ClusterError
        It has none, or several and none of that name, or the environment declares another range.
    """
    roles = spec.roles if spec else ()
    scalable = scalable_roles(spec)
    found = [role for role in scalable if group in ("", role.name)]
    for role in roles:
        if role.bounds and not role.scalable and (group == role.name or not (group or scalable)):
            raise _fixed(name, role, replicas)
    if not scalable:
        engine = spec.engine if spec else "plain"
        raise ClusterError(
            f"{name} cannot be scaled", seen=f"the {engine} engine has nothing to scale"
        )
    if len(found) != 1:
        raise ClusterError(
            f"{name} has several groups" if found else f"{name} has no group {group!r}",
            seen=f"there are {', '.join(role.name for role in scalable)}",
            fix=f"Type: %flyte scale {name} N --group {scalable[0].name}",
        )
    (role,) = found
    nearest = _nearest(role, replicas)
    if nearest != replicas:
        line = f"%flyte scale {name} {nearest}"
        line += f" --group {role.name}" if len(scalable) > 1 else ""
        raise _outside(name, role, replicas, line)
    return role


def scalable_roles(spec: ClusterSpec | None) -> list[Role]:
    """Return the roles of a cluster that can be scaled, in their order."""
    return [role for role in spec.roles if role.scalable] if spec else []


def _nearest(role: Role, replicas: int) -> int:
    replicas = max(replicas, _least(role))
    return replicas if role.most is None else min(replicas, role.most)


def _least(role: Role) -> int:
    """Return the fewest members of a role: none only where its environment says so."""
    return min(1, role.replicas) if role.least is None else role.least


def _fixed(name: str, role: Role, replicas: int) -> ClusterError:
    return ClusterError(
        f"{name} cannot be scaled",
        seen=f"its group {role.name!r} is fixed at {role.replicas}",
        fix=f"A range can be: {role.bounds.format(least=1, most=max(2, replicas, role.replicas))}",
    )


def _outside(name: str, role: Role, replicas: int, line: str) -> ClusterError:
    if replicas < _least(role) and role.least is None:
        declared = f"at least {_least(role)}"
    elif role.least == role.most:
        declared = f"exactly {role.least}"
    elif role.least is None or role.most is None:
        declared = f"at most {role.most}" if role.least is None else f"at least {role.least}"
    else:
        declared = f"{role.least} to {role.most}"
    numbers = {
        "least": min(replicas, replicas if role.least is None else role.least),
        "most": max(replicas, replicas if role.most is None else role.most),
    }
    wider = f", or declare {role.bounds.format(**numbers)}" if role.bounds else ""
    return ClusterError(
        f"{name} cannot be scaled to {replicas}",
        seen=f"its group {role.name!r} takes {declared}",
        fix=f"Type: {line}{wider}",
    )
