"""Run the benchmark: ``python -m tests.bench [--rows NAME,...] [--quick] [--markdown FILE]``."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from tests.bench import (
    connectors,
    dask_rows,
    deployment,
    functions,
    interrupting,
    killing,
    latency,
    loading,
    output,
    pytorch_rows,
    ray_rows,
    report,
    spark_rows,
    values,
)
from tests.bench.rows import Group, Row
from tests.bench.workplace import workplace

GROUPS: dict[str, Group] = {
    "load_ext": loading.load_ext,
    "noop": latency.noop,
    "transfer": values.transfer,
    "print": output.printing,
    "flood": output.flood,
    "functions": functions.functions,
    "connectors": connectors.connectors,
    "deployment": deployment.deployment,
    "interrupts": interrupting.interrupts,
    "dask": dask_rows.dask_rows,
    "ray": ray_rows.ray_rows,
    "spark": spark_rows.spark_rows,
    "pytorch": pytorch_rows.pytorch_rows,
    "kills": killing.dask_kills,
    "ray_kills": killing.ray_kills,
    "spark_kills": killing.spark_kills,
    "pytorch_kills": killing.pytorch_kills,
}


def main() -> int:
    """Measure, print the table, and return 1 if something could not be measured at all."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # else nothing would be cleaned up
    rows: list[Row] = []
    broken = 0
    try:
        with workplace():
            for name in options.rows:
                broken += not _measure(name, options.quick, rows)
    finally:
        print(report.as_text(rows))
        if options.markdown:
            options.markdown.write_text(report.as_markdown(rows))
    return 1 if broken else 0


def _measure(name: str, quick: bool, rows: list[Row]) -> bool:
    """Append the rows of a group; say whether they could be measured."""
    started, whole = time.monotonic(), True
    try:
        rows += GROUPS[name](quick)
    except Exception as error:  # noqa: BLE001 - the others are worth having all the same
        whole = False
        rows.append(Row(name, f"not measured: {type(error).__name__}", met=False))
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return whole


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.bench", description=_summary())
    parser.add_argument(
        "--rows",
        type=_names,
        default=list(GROUPS),
        metavar="NAME,...",
        help=f"only these, of {', '.join(GROUPS)}",
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    return parser.parse_args()


def _summary() -> str:
    return "Measure what users of a notebook wait for, beside the peers."


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in GROUPS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(GROUPS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
