"""Widgets made by remote code are live: what the page does reaches the code that made them."""

from __future__ import annotations

import pytest

SLIDER = """
import ipywidgets
slider = ipywidgets.IntSlider(value=3, description="remote")
slider.observe(lambda change: print("moved to", change["new"]), names="value")
slider
"""


@pytest.fixture(autouse=True)
def _forget(plain):
    plain.comms.clear()


def opened(book, kind: str) -> dict:
    """Return the content of the message that opened a widget of a kind."""
    for message in book.comms:
        content = message["content"]
        if message["header"]["msg_type"] == "comm_open":
            state = content["data"].get("state", {})
            if state.get("_model_name") == kind:
                return content
    raise AssertionError(f"no {kind} among {len(book.comms)} messages")


def updates(book, comm: str) -> list[dict]:
    """Return the states that were sent to one widget."""
    return [
        m["content"]["data"]["state"]
        for m in book.comms
        if m["header"]["msg_type"] == "comm_msg"
        and m["content"]["comm_id"] == comm
        and m["content"]["data"].get("method") == "update"
    ]


def test_a_remote_widget_opens_in_the_page(plain):
    cell = plain.task(SLIDER)
    content = opened(plain, "IntSliderModel")
    assert content["target_name"] == "jupyter.widget"
    assert content["data"]["state"]["value"] == 3
    (result,) = cell.of("execute_result")
    view = result["data"]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == content["comm_id"]


def test_what_the_page_sends_reaches_the_observer(plain):
    plain.task(SLIDER)
    comm = opened(plain, "IntSliderModel")["comm_id"]
    moved = plain.send_comm(comm, {"method": "update", "state": {"value": 8}, "buffer_paths": []})
    plain.until_printed(moved, "moved to 8\n")


def test_what_the_code_sends_reaches_the_page(plain):
    plain.task(SLIDER + "\nslider.value = 5")
    comm = opened(plain, "IntSliderModel")["comm_id"]
    assert {"value": 5} in updates(plain, comm)


def test_a_widget_answers_while_a_task_runs(plain, tmp_path):
    """As the page of a notebook without subshells would have it: once the cell is over."""
    plain.task(SLIDER)
    comm = opened(plain, "IntSliderModel")["comm_id"]
    plain.task("import time\nprint('in')\ntime.sleep(0.3)", "--bg job")
    moved = plain.send_comm(comm, {"method": "update", "state": {"value": 9}, "buffer_paths": []})
    plain.until_printed(moved, "moved to 9\n")
    plain.run("job.result(30)")


def test_a_closed_widget_closes_in_the_page(plain):
    plain.task(SLIDER + "\nslider.close()")
    comm = opened(plain, "IntSliderModel")["comm_id"]
    kinds = [m["header"]["msg_type"] for m in plain.comms if m["content"]["comm_id"] == comm]
    assert kinds[-1] == "comm_close"


def test_a_progress_bar_of_tqdm_moves(plain):
    cell = plain.task(
        """
        from tqdm.notebook import tqdm
        for _ in tqdm(range(4), mininterval=0):
            pass
        """
    )
    bar = opened(plain, "FloatProgressModel")
    values = [state["value"] for state in updates(plain, bar["comm_id"]) if "value" in state]
    assert values[-1] == 4.0
    views = [d.get("application/vnd.jupyter.widget-view+json") for d in cell.displays]
    assert any(views)


def test_widgets_of_a_dead_driver_are_closed(plain):
    plain.task(SLIDER)
    comm = opened(plain, "IntSliderModel")["comm_id"]
    plain.run("%flyte restart env")

    def closed() -> bool:
        return any(
            m["header"]["msg_type"] == "comm_close" and m["content"]["comm_id"] == comm
            for m in plain.comms
        )

    plain.until(closed, what="the widget to be closed")
    assert plain.task("1").result == "1"


def test_the_progress_of_dask_moves(dask):
    cell = dask.task(
        """
        import asyncio, time
        from distributed import Client, progress
        client = Client()
        futures = client.map(time.sleep, [0.05] * 8, pure=False)
        display(progress(futures))
        while not all(future.done() for future in futures):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)  # the bar is drawn ten times a second
        """
    )
    assert cell.displays
    bar = opened(dask, "FloatProgressModel")
    states = updates(dask, bar["comm_id"])
    assert {"value": 1.0} in states
    assert {"bar_style": "success"} in states


def test_the_progress_of_dask_goes_on_after_the_cell_if_its_futures_are_kept(dask):
    dask.comms.clear()
    dask.task(
        """
        import time
        from distributed import Client, progress
        client = Client()
        futures = client.map(time.sleep, [0.05] * 8, pure=False)
        progress(futures)
        """,
        "-r futures -r client",
    )

    def full() -> bool:
        bars = [m["content"] for m in dask.comms if "FloatProgressModel" in str(m["content"])]
        return any({"value": 1.0} in updates(dask, bar["comm_id"]) for bar in bars)

    dask.until(full, what="the bar to be full")


def test_comms_may_say_anything(plain):
    cell = plain.task("""
    from comm import create_comm
    made = create_comm(target_name="mine", data="text")
    made.send("more")
    made.send({"state": "busy"})
    """)
    said = [m["content"]["data"] for m in plain.comms[-3:]]
    assert said == ["text", "more", {"state": "busy"}]
    assert cell.stderr == ""


CAPTURED = """\
import ipywidgets
out = ipywidgets.Output()
display(out)
with out:
    print("into the widget")
"""


def test_an_output_widget_captures_messages_that_the_page_knows(plain):
    cell = plain.task(CAPTURED)
    states = [m["content"]["data"].get("state", {}) for m in plain.comms]
    captured = [state["msg_id"] for state in states if state.get("msg_id")]
    assert captured == [cell.message]
    released = [state for state in states if state.get("msg_id") == ""]
    assert released


def test_interact_calls_its_function_for_messages_that_the_page_knows(plain):
    plain.comms.clear()
    plain.task("""
    from ipywidgets import interact
    @interact(x=(0, 10))
    def show(x):
        print("x is", x)
    """)
    slider = next(
        m["content"]["comm_id"]
        for m in plain.comms
        if m["content"].get("data", {}).get("state", {}).get("_model_name") == "IntSliderModel"
    )
    plain.comms.clear()
    moved = plain.send_comm(slider, {"method": "update", "state": {"value": 3}, "buffer_paths": []})
    plain.until(lambda: "x is 3" in moved.stdout)
    states = [m["content"]["data"].get("state", {}) for m in plain.comms]
    assert moved.message in [state.get("msg_id") for state in states]
