"""An object store for a backend: S3, as moto has it."""

from __future__ import annotations

import logging
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

BUCKET = "flyte"
KEY, SECRET, REGION = "store", "not-a-secret", "us-east-1"


class Store:
    """A bucket, and the server that it is in."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name=REGION,
            config=Config(proxies={}),
        )
        self._client.create_bucket(Bucket=BUCKET)

    def close(self) -> None:
        self._client.close()
        self._server.stop()

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which the SDK finds it."""
        return {
            "FLYTE_AWS_ENDPOINT": self.endpoint,
            "FLYTE_AWS_ACCESS_KEY_ID": KEY,
            "FLYTE_AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
        }

    def address(self, key: str) -> str:
        """Return what the SDK calls an object."""
        return f"s3://{BUCKET}/{key}"

    def signed(self, key: str, method: str) -> str:
        """Return a web address where an object can be put or got without a login."""
        return str(
            self._client.generate_presigned_url(method, Params={"Bucket": BUCKET, "Key": key})
        )

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def read(self, key: str) -> bytes | None:
        """Return an object, by its key or its address; None if there is none."""
        key = key.removeprefix(self.address(""))
        try:
            data: bytes = self._client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        except ClientError:
            return None
        return data
