"""A backend that can be waited for, and what tests of clusters look at."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
from local_members import ESCAPE

from flyte_jupyter.backends.backend import DRIVER, DriverLaunch
from flyte_jupyter.backends.local.backend import LocalBackend, new_key
from flyte_jupyter.driver.client import DriverClient
from flyte_jupyter.driver.values.transfer import pack, unpack
from flyte_jupyter.engines.engine import ClusterSpec

DEADLINE = 20.0
SETTINGS = {"output_limit": 2**20, "output_rate": 2**14, "path": [], "local_roots": []}


class Lines:
    """A sink that remembers."""

    def __init__(self):
        self.text = ""

    def stream(self, name, text):
        self.text += text

    def display(self, content, *, update=False):
        self.text += content["data"].get("text/plain", "")

    result = display

    def clear(self, wait):
        pass

    def run(self, function, *args):
        return function(*args)


class Watched:
    """A local backend, and everything that it has told."""

    def __init__(self, **options):
        self.told = []
        self._news = asyncio.Event()
        self.backend = LocalBackend(self._listen, **options)

    def _listen(self, name, status):
        self.told.append((name, status))
        self._news.set()
        self._news = asyncio.Event()

    async def create(self, *roles, name="toy", **spec):
        launch = DriverLaunch(new_key(), SETTINGS, str(Path.cwd()), tuple(sys.path))
        await self.backend.create(name, ClusterSpec("toy", tuple(roles), **spec), launch)

    async def until(self, condition, name="toy"):
        """Wait until the last status told fulfils a condition."""
        async with asyncio.timeout(DEADLINE):
            while True:
                last = next((s for n, s in reversed(self.told) if n == name), None)
                if last is not None and condition(last):
                    return last
                await self._news.wait()

    async def ready(self, name="toy"):
        status = await self.until(lambda s: s["state"] in ("ready", "failed"), name)
        assert status["state"] == "ready", status["reason"]
        return status

    async def failed(self, name="toy"):
        return await self.until(lambda s: s["state"] == "failed", name)

    async def in_driver(self, code, name="toy", returns=()):
        """Run code in the driver; returns what it bound and what it printed."""
        address = self.backend.address(name)
        client = DriverClient(address.connection)
        try:
            await client.connect()
            return await run_code(client, code, returns)
        finally:
            client.close()


async def run_code(client, code, returns=(), **inputs):
    import cloudpickle

    parcel, sink = pack(inputs), Lines()
    request = {
        "run": "r1",
        "code": code,
        "count": 1,
        "line": 1,
        "inputs": parcel.header,
        "returns": list(returns),
        "keeps": [],
        "cells": {},
        "allow_stdin": False,
        "around": {"cwd": os.getcwd()},
        "ranks": "",
        "own": False,
        "call": False,
    }
    declaration = cloudpickle.dumps({"name": "toy.cell", "config": None, "connectors": b""})
    try:
        async with asyncio.timeout(DEADLINE):
            reply, buffers = await client.run(request, [declaration, *parcel.frames], sink)
    finally:
        parcel.close()
    assert reply["status"] == "ok", "\n".join(reply["traceback"])
    return dict(unpack(reply["outputs"], buffers)), sink.text


def members(status, role):
    return [m for m in status["members"] if m["role"] == role]


def driver_of(status):
    return members(status, DRIVER)[0]


async def gone(pids):
    """Wait until processes are no more, zombies not counted as alive."""
    async with asyncio.timeout(DEADLINE):
        while any(alive(pid) for pid in pids):
            await asyncio.sleep(0.02)


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def appears(path):
    """Wait for a file and return what it holds."""
    async with asyncio.timeout(DEADLINE):
        while not path.exists():
            await asyncio.sleep(0.02)
    return path.read_text()


__all__ = ["ESCAPE", "Watched", "alive", "appears", "driver_of", "gone", "members", "run_code"]
