"""Versions that cache policies of the user's give a task, asked as the SDK asks for them."""

from __future__ import annotations

from typing import Any

from flyte._cache.cache import VersionParameters


def version_by(policy: Any, salt: str, task: Any) -> str:
    """Return the version that a policy gives a task.

    Raises
    ------
    Exception
        Whatever the policy raises.
    """
    about = VersionParameters(func=getattr(task, "func", None), image=task.image)
    return str(policy.get_version(salt, about))
