"""What a person sees in JupyterLab: remote widgets that live, and a dashboard that is not grey."""

from __future__ import annotations

import pytest

pytest.importorskip("selenium")

from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser import lab

pytestmark = [
    pytest.mark.skipif(not lab.available(), reason="needs chromium and chromedriver"),
    pytest.mark.timeout(400),
    # Selenium's and Jupyter's own sockets, closed by their processes' end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

CELLS = (
    """%load_ext flyte_jupyter
import ipywidgets, flyte
from flyteplugins.dask import Dask, WorkerGroup
workers = WorkerGroup(number_of_workers=2)
env = flyte.TaskEnvironment(name="env", plugin_config=Dask(workers=workers))""",
    "%flyte up env",
    """%%flyte_task env
import ipywidgets as widgets
slider, shown = widgets.IntSlider(value=3, description="remote"), widgets.Output()
slider.observe(lambda change: shown.append_stdout(f"now {change['new']}\\n"), "value")
display(slider, shown)""",
)


RAY = (
    """%load_ext flyte_jupyter
import flyte
from flyteplugins.ray import HeadNodeConfig, RayJobConfig
head = HeadNodeConfig(ray_start_params={"num-cpus": "1"})
env = flyte.TaskEnvironment(
    name="env", plugin_config=RayJobConfig(worker_node_config=[], head_node_config=head))""",
    "%flyte up env",
)
SPARK = (
    """%load_ext flyte_jupyter
import flyte
from flyteplugins.spark import Spark
env = flyte.TaskEnvironment(name="env", plugin_config=Spark(spark_conf={
    "spark.executor.instances": "1", "spark.executor.memory": "512m"}))""",
    "%flyte up env",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page whose cells have run."""
    folder = tmp_path_factory.mktemp("lab")
    lab.write_notebook(folder / "widgets.ipynb", *CELLS)
    with lab.lab_server(folder) as url:
        page = lab.Page(url, "widgets.ipynb")
        try:
            page.run(len(CELLS))
            page.find(".widget-slider")
            yield page
        finally:
            page.close()


def push(page):
    page.find(".widget-slider .noUi-handle").send_keys(Keys.ARROW_RIGHT)


def test_a_remote_slider_is_live_before_and_after_the_page_is_reloaded(page):
    push(page)
    page.await_text("now 4")
    page.save()
    page.open()
    push(page)
    page.await_text("now 5")


def test_the_dashboard_opens_through_the_notebook_server_with_all_its_parts(page):
    link = page.driver.find_element(By.LINK_TEXT, "Dask dashboard").get_attribute("href")
    assert "/proxy/" in link
    here = page.driver.current_window_handle
    page.driver.execute_script("window.open(arguments[0])", link)
    page.driver.switch_to.window(page.driver.window_handles[-1])
    try:
        lab.await_value(lambda: page.driver.title == "Dask: Status", "the dashboard")
        drawn = "return window.Bokeh ? Bokeh.documents.length : 0"
        lab.await_value(lambda: page.driver.execute_script(drawn), "Bokeh to draw")
        assert not [m for m in page.driver.get_log("browser") if m["level"] == "SEVERE"]
    finally:
        page.driver.close()
        page.driver.switch_to.window(here)


@pytest.mark.parametrize(
    ("cells", "link", "text"),
    [(RAY, "Ray dashboard", "Overview"), (SPARK, "Spark jobs", "Scheduling Mode")],
    ids=["ray", "spark"],
)
def test_the_dashboards_of_other_engines_open_too(tmp_path, cells, link, text):
    lab.write_notebook(tmp_path / "pages.ipynb", *cells)
    with lab.lab_server(tmp_path) as url:
        page = lab.Page(url, "pages.ipynb")
        try:
            page.run(len(cells))
            address = page.find_link(link).get_attribute("href")
            assert "/proxy/" in address
            page.driver.get(address)
            body = "return document.body.innerText"
            lab.await_value(lambda: text in page.driver.execute_script(body), f"{text!r} in {link}")
        finally:
            page.close()
