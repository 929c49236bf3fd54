"""The SDK's gRPC services of connectors, for a server that is made elsewhere.

The SDK's own server listens everywhere, so its parts are used; contract tests fail loudly when a
new SDK changes one of them:

- `flyte.connectors._server.AsyncConnectorService` and `ConnectorMetadataService`
- `flyte.connectors.utils._load_connectors`
"""

from __future__ import annotations

from typing import Any


def load_installed() -> None:
    """Import the connectors of all plugins that are installed."""
    from flyte.connectors.utils import _load_connectors

    _load_connectors(None)


def add_services(server: Any) -> list[str]:
    """Have a `grpc.aio.Server` answer for connectors; returns the services' names."""
    from flyte.connectors._server import AsyncConnectorService, ConnectorMetadataService
    from flyteidl2.connector import service_pb2, service_pb2_grpc

    service_pb2_grpc.add_AsyncConnectorServiceServicer_to_server(AsyncConnectorService(), server)
    service_pb2_grpc.add_ConnectorMetadataServiceServicer_to_server(
        ConnectorMetadataService(), server
    )
    return [service.full_name for service in service_pb2.DESCRIPTOR.services_by_name.values()]
