"""The quickstart in whatever runs notebooks: plain IPython, the console, nbclient, papermill."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
FOUND = "best: C=10, gamma=0.001, accuracy 0.976"
SEEN = "578 of 597 digits"

pytestmark = pytest.mark.timeout(300)


def run(*command: str, cwd: Path) -> str:
    """Run a program to its end and return what it printed."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outputs(path: Path) -> str:
    """Return the outputs of an executed notebook, as text."""
    cells = json.loads(path.read_text())["cells"]
    return json.dumps([cell.get("outputs") for cell in cells])


def test_plain_ipython_runs_the_quickstart_as_text(tmp_path):
    shown = run(
        sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor",
        "-c", f"%run {QUICKSTART}", cwd=tmp_path,
    )  # fmt: skip
    assert FOUND in shown
    assert SEEN in shown
    assert "<Figure size 600x300 with 2 Axes>" in shown


def test_jupyter_console_runs_the_quickstart(tmp_path):
    pexpect = pytest.importorskip("pexpect")
    handler = "--ZMQTerminalInteractiveShell"
    console = pexpect.spawn(
        sys.executable,
        # Else a viewer is looked for, by a program that says on the same terminal what it misses.
        ["-m", "jupyter", "console", "--simple-prompt", f"{handler}.image_handler=stream",
         f"{handler}.stream_image_handler=true"],
        cwd=str(tmp_path), encoding="utf-8", timeout=200, dimensions=(50, 200),
    )  # fmt: skip
    shown = console.logfile_read = io.StringIO()
    try:
        console.expect(r"In \[1\]")
        console.sendline(f"%run {QUICKSTART}")
        console.expect(r"In \[2\]")
        console.sendline("exit()")
        console.expect(pexpect.EOF)
    finally:
        console.close(force=True)
    assert FOUND in shown.getvalue()
    assert SEEN in shown.getvalue()


def test_nbclient_executes_the_quickstart_with_its_widgets_and_pictures(tmp_path):
    run(
        sys.executable, "-m", "jupyter", "nbconvert", "--execute", "--to", "notebook",
        "--output-dir", str(tmp_path), str(QUICKSTART), cwd=tmp_path,
    )  # fmt: skip
    executed = tmp_path / QUICKSTART.name
    found = outputs(executed)
    assert FOUND in found
    assert "image/png" in found
    widgets = json.loads(executed.read_text())["metadata"]["widgets"]
    states = widgets["application/vnd.jupyter.widget-state+json"]["state"].values()
    bars = [w["state"] for w in states if w["model_name"] == "FloatProgressModel"]
    assert [bar["value"] for bar in bars] == [24.0]


def test_papermill_executes_the_quickstart(tmp_path):
    executed = tmp_path / "out.ipynb"
    run(
        sys.executable, "-m", "papermill", "--no-progress-bar", str(QUICKSTART), str(executed),
        cwd=tmp_path,
    )  # fmt: skip
    assert SEEN in outputs(executed)
