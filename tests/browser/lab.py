"""A real JupyterLab in a real browser, as far as the tests of this folder need one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

PATIENCE = 90.0
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--window-size=1300,1500",
)  # fmt: skip


def available() -> bool:
    """Whether there is a browser that can be driven."""
    return all(shutil.which(program) for program in ("chromium", "chromedriver"))


def await_value(look: Callable[[], Any], about: str) -> Any:
    """Look until something is there, and return it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if value := look():
                return value
        except WebDriverException:
            pass  # the page is being redrawn
        time.sleep(0.2)
    raise AssertionError(f"waited {PATIENCE:g} s in vain for {about}")


@contextmanager
def lab_server(folder: Path) -> Iterator[str]:
    """Run JupyterLab on a folder, and yield its address."""
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--port=0",
                "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}",
            ],
            stdout=log, stderr=subprocess.STDOUT, cwd=folder,
        )  # fmt: skip
    try:
        yield await_value(lambda: _address(server.pid), "JupyterLab to answer")
    finally:
        server.terminate()
        server.wait(30)


def _address(pid: int) -> str | None:
    from jupyter_core.paths import jupyter_runtime_dir

    info = Path(jupyter_runtime_dir()) / f"jpserver-{pid}.json"
    try:
        url: str = json.loads(info.read_text())["url"]
        urlopen(f"{url}api", timeout=2).close()
    except (OSError, ValueError):
        return None
    return url


class Page:
    """A notebook, open in the browser.

    Parameters
    ----------
    url
        The server's address.
    path
        The notebook's path on it.
    """

    def __init__(self, url: str, path: str) -> None:
        options = webdriver.ChromeOptions()
        for flag in _FLAGS:
            options.add_argument(flag)
        options.binary_location = shutil.which("chromium") or ""
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self._url = f"{url}lab/tree/{path}"
        self.open()

    def open(self) -> None:
        """Load the page, anew if it was there, and wait for the kernel."""
        self.driver.get(self._url)
        self.find(".jp-NotebookPanel .jp-Notebook .jp-CodeCell")
        await_value(lambda: "Idle" in self.find("#jp-main-statusbar").text, "an idle kernel")

    def run(self, cells: int) -> None:
        """Run so many cells from the top."""
        self.driver.execute_script("document.querySelector('.jp-Notebook').focus()")
        for _ in range(cells):
            keys = ActionChains(self.driver)
            keys.key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(Keys.SHIFT).perform()
            time.sleep(0.3)

    def save(self) -> None:
        """Save the notebook, outputs included."""
        ActionChains(self.driver).key_down(Keys.CONTROL).send_keys("s").key_up(
            Keys.CONTROL
        ).perform()
        await_value(
            lambda: not self.driver.find_elements(By.CSS_SELECTOR, ".jp-mod-dirty"), "a save"
        )

    def find(self, selector: str) -> WebElement:
        """Wait for an element."""
        return await_value(
            lambda: next(iter(self.driver.find_elements(By.CSS_SELECTOR, selector)), None), selector
        )

    def find_link(self, text: str) -> WebElement:
        """Wait for a link by its words."""
        return await_value(
            lambda: next(iter(self.driver.find_elements(By.LINK_TEXT, text)), None), repr(text)
        )

    def await_text(self, text: str) -> None:
        """Wait until the notebook shows a text."""
        await_value(lambda: text in self.find(".jp-Notebook").text, repr(text))

    def close(self) -> None:
        """Close the browser."""
        self.driver.quit()


def write_notebook(path: Path, *cells: str) -> None:
    """Write a notebook of code cells."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook["metadata"]["kernelspec"] = {
        "name": "python3", "display_name": "Python 3", "language": "python",
    }  # fmt: skip
    nbformat.write(notebook, path)
