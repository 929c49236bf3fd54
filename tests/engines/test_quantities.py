"""Cores and bytes in the notation of Kubernetes."""

from __future__ import annotations

import contextlib

import flyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flyte_jupyter.engines.quantities import cores, memory_bytes
from flyte_jupyter.errors import EngineError


class Given:
    def __init__(self, cpu=None, memory=None):
        self.cpu, self.memory = cpu, memory


@pytest.mark.parametrize(
    ("cpu", "threads"),
    [
        (None, 0),
        (1, 1),
        (2.7, 2),
        ("3", 3),
        ("1.5", 1),
        ("500m", 1),
        ("2500m", 2),
        (0.1, 1),
        ((1, 4), 4),
        (("500m", "3000m"), 3),
    ],
)
def test_cpus_are_worth_so_many_threads(cpu, threads):
    assert cores(flyte.Resources(cpu=cpu)) == threads


@pytest.mark.parametrize(
    ("memory", "size"),
    [
        (None, 0),
        (4096, 4096),
        ("512Mi", 512 * 2**20),
        ("4Gi", 4 * 2**30),
        ("1.5Gi", 3 * 2**29),
        ("1G", 10**9),
        ("100k", 100_000),
        ("1Ti", 2**40),
        (("1Gi", "2Gi"), 2 * 2**30),
    ],
)
def test_memory_is_read_in_bytes(memory, size):
    assert memory_bytes(Given(memory=memory)) == size


def test_no_resources_say_nothing():
    assert (cores(None), memory_bytes(None)) == (0, 0)


@pytest.mark.parametrize("cpu", ["", "m", "many", "0", 0, -1, "-500m", "nan", "inf", True, "1Gi"])
def test_a_cpu_that_is_no_number_of_cores_is_refused(cpu):
    with pytest.raises(EngineError, match="cpu must be a positive number"):
        cores(Given(cpu=cpu))


@pytest.mark.parametrize(
    "memory", ["", "lots", "0", 0, -1, "0.5", "9" * 400, "4gi", "4 Gi", "1e3", "Gi", True]
)
def test_a_memory_that_is_no_size_is_refused(memory):
    with pytest.raises(EngineError, match="memory must be a positive size"):
        memory_bytes(Given(memory=memory))


@given(st.integers(1, 512))
def test_a_core_is_a_thousand_millicores(count):
    assert cores(Given(cpu=f"{count * 1000}m")) == cores(Given(cpu=count)) == count


@given(st.integers(1, 2**20), st.sampled_from(["k", "M", "G", "Ki", "Mi", "Gi"]))
def test_a_unit_multiplies(count, unit):
    factor = memory_bytes(Given(memory=f"1{unit}"))
    assert memory_bytes(Given(memory=f"{count}{unit}")) == count * factor


@given(st.text() | st.integers() | st.floats() | st.from_regex(r"\d+\.?\d*[A-Za-z]{0,2}"))
def test_anything_else_is_a_quantity_or_an_engine_error(value):
    for read in (lambda: cores(Given(cpu=value)), lambda: memory_bytes(Given(memory=value))):
        with contextlib.suppress(EngineError):
            assert read() >= 1
