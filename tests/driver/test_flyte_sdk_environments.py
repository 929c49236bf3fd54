"""What the SDK knows of environments."""

from __future__ import annotations

import flyte

from flyte_jupyter.driver.flyte_sdk.environments import last_declared


def test_the_last_of_a_name_is_found_wherever_it_is_held():
    assert last_declared("never-declared") is None
    held = [flyte.TaskEnvironment(name="declared-twice") for _ in range(2)]
    assert last_declared("declared-twice") is held[1]
