"""Fixtures of the backends' tests."""

from __future__ import annotations

import pytest
from backend_parts import Watched

from flyte_jupyter.engines.engine import Role


@pytest.fixture
async def watched():
    """Make watched backends; what they run is taken down at the end."""
    made = []

    def make(**options):
        made.append(Watched(**options))
        return made[-1]

    yield make
    for each in made:
        for name in list(each.backend._clusters):
            await each.backend.delete(name)


@pytest.fixture
def server():
    return Role("server", "local_members:serve", scalable=True)
