"""Inputs of a run, packed for one driver."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flyte_jupyter.driver.values import transfer
from flyte_jupyter.driver.values.by_value import refusing_secrets
from flyte_jupyter.driver.values.transfer import Parcel
from flyte_jupyter.sessions.clusters import Cluster
from flyte_jupyter.sessions.refs import packing_for


@dataclass(frozen=True)
class Packed:
    """Values on their way.

    Parameters
    ----------
    parcel
        The values.
    driver
        Identity of the driver that they are for; empty if there was none yet.
    """

    parcel: Parcel | Any
    driver: str


def pack_for(
    cluster: Cluster,
    values: Mapping[str, object],
    local_modules: Any,
    *,
    travelled: bool = False,
) -> Packed:
    """Pack values for the present driver of a cluster; from any thread.

    Parameters
    ----------
    cluster, values, local_modules
        What to pack, for whom, and what travels by value.
    travelled
        Whether the values come from a task: what they hold was sent to it on purpose.

    Raises
    ------
    CaptureError
        One cannot be pickled, or is a ref of another driver.
    """
    # Before anything else: should it be replaced meanwhile, this is packed for the one before.
    driver = cluster.driver
    by_value = local_modules.travelling_by_value()
    secrets = contextlib.nullcontext() if travelled else refusing_secrets(values)
    with by_value, packing_for(driver), secrets:
        parcel = transfer.pack(values, sent=cluster.sent, folder=cluster.folder, files=True)
        return Packed(parcel, driver)
