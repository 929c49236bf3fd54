"""What a task cell shows and returns: as any other cell does."""

from __future__ import annotations

from tests.notebook import task


def test_outputs_come_back_by_value_and_nothing_else(plain):
    plain.task("a, b = 1, [2.5, 'c']\nkept = 3", "-o a -o b")
    assert plain.value("a, b") == (1, [2.5, "c"])
    assert plain.fail("kept").name == "NameError"


def test_several_outputs_of_one_option(plain):
    plain.task("x, y, z = 1, 2, {3: None}", "-o x,y,z")
    assert plain.value("x, y, z") == (1, 2, {3: None})


def test_a_cell_starts_from_a_fresh_namespace(plain):
    plain.task("left_behind = 1")
    assert plain.fail(task("left_behind")).name == "NameError"


def test_the_last_expression_is_the_result_of_the_cell(plain):
    cell = plain.task("x = 20\nx + 1")
    (content,) = cell.of("execute_result")
    assert content["data"]["text/plain"] == "21"
    assert content["execution_count"] == cell.reply["execution_count"]


def test_a_semicolon_suppresses_the_result(plain):
    assert plain.task("20 + 1;").of("execute_result") == []
    assert plain.task("20 + 1").result == "21"


def test_rich_results_keep_all_their_forms(plain):
    cell = plain.task(
        """
        class Shape:
            def __repr__(self): return "a shape"
            def _repr_html_(self): return "<b>a shape</b>"
            def _repr_svg_(self): return "<svg/>"
        Shape()
        """
    )
    data = cell.of("execute_result")[0]["data"]
    assert data == {
        "text/plain": "a shape",
        "text/html": "<b>a shape</b>",
        "image/svg+xml": "<svg/>",
    }


def test_displays_are_updated_by_their_id(plain):
    cell = plain.task(
        """
        handle = display("one", display_id="shown")
        handle.update("two")
        """
    )
    (shown,) = cell.of("display_data")
    (update,) = cell.of("update_display_data")
    assert shown["data"]["text/plain"] == "'one'"
    assert update["data"]["text/plain"] == "'two'"
    assert shown["transient"]["display_id"] == update["transient"]["display_id"] == "shown"


def test_a_later_cell_updates_the_display_of_an_earlier(plain):
    plain.task('display("old", display_id="across")')
    cell = plain.task(
        'from IPython.display import update_display\nupdate_display("new", display_id="across")'
    )
    (update,) = cell.of("update_display_data")
    assert update["transient"]["display_id"] == "across"


def test_output_is_cleared(plain):
    cell = plain.task(
        """
        from IPython.display import clear_output
        print("before")
        clear_output(wait=True)
        print("after")
        """
    )
    kinds = [m["header"]["msg_type"] for m in cell.messages]
    assert kinds[-3:] == ["stream", "clear_output", "stream"]
    assert cell.of("clear_output") == [{"wait": True}]


def test_streams_and_displays_keep_their_order(plain):
    cell = plain.task(
        """
        import sys
        for n in range(3):
            print("out", n)
            print("err", n, file=sys.stderr)
            display(n)
        """
    )
    seen = []
    for message in cell.messages:
        content = message["content"]
        if message["header"]["msg_type"] == "stream":
            seen += content["text"].split("\n")[:-1]
        elif message["header"]["msg_type"] == "display_data":
            seen.append(content["data"]["text/plain"])
    assert seen == [word for n in range(3) for word in (f"out {n}", f"err {n}", str(n))]
    assert cell.stderr == "err 0\nerr 1\nerr 2\n"


def test_what_is_printed_arrives_while_the_cell_runs(plain, tmp_path):
    gate = tmp_path / "gate"
    plain.run(f"gate = {str(gate)!r}")
    cell = plain.submit(
        task(
            """
            import os, time
            print("now")
            while not os.path.exists(gate):
                time.sleep(0.01)
            print("done")
            """
        )
    )
    plain.until(lambda: cell.stdout == "now\n", what="the first line")
    assert not cell.done
    gate.touch()
    assert plain.wait(cell).stdout == "now\ndone\n"


def test_output_of_threads_and_subprocesses_is_the_cells(plain):
    cell = plain.task(
        """
        import os, subprocess, threading
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start(); thread.join()
        print(subprocess.check_output(["echo", "from a process"], text=True), end="")
        """
    )
    assert cell.stdout == "from a thread\nfrom a process\n"


def test_pictures_of_matplotlib_appear(plain):
    cell = plain.task("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
    assert cell.of("execute_result") == []
    (picture,) = cell.displays
    assert picture["image/png"]


def test_a_surrounding_capture_captures(plain):
    plain.run("%%capture got\n" + task("import sys\nprint('o')\nprint('e', file=sys.stderr)\n40+2"))
    assert plain.value("got.stdout, got.stderr") == ("o\n", "e\n")
    assert plain.value("[out.data['text/plain'] for out in got.outputs]") == ["42"]


def test_an_output_widget_around_a_task_cell_takes_its_output(plain):
    cell = plain.run(
        """
        import ipywidgets
        box = ipywidgets.Output()
        with box:
            get_ipython().run_cell_magic("flyte_task", "env", "print('inside')")
        """.replace("\n        ", "\n")
    )
    # The page moves what comes between into the widget, by the id of the request.
    states = [m["content"]["data"].get("state", {}) for m in plain.comms]
    assert any(state.get("msg_id") == cell.message for state in states)
    assert cell.stdout == "inside\n"


def test_magics_and_shell_lines_work_in_a_task_cell(plain):
    cell = plain.task(
        """
        word = "shell"
        !echo from the {word}
        lines = !printf 'a\\nb\\n'
        %time total = sum(range(10))
        print(lines, total)
        """,
        "-o total",
    )
    assert "from the shell" in cell.stdout
    assert "Wall time" in cell.stdout
    assert "['a', 'b'] 45" in cell.stdout
    assert plain.value("total") == 45


def test_a_cell_magic_inside_a_task_cell(plain):
    cell = plain.task("%%capture inner\nprint('hidden')")
    assert cell.stdout == ""
    assert plain.task("%%time\nprint('shown')\n6 * 7").stdout.startswith("shown\n")


def test_await_at_top_level(plain):
    plain.task(
        """
        import asyncio
        async def double(x):
            await asyncio.sleep(0)
            return 2 * x
        doubled = await asyncio.gather(*map(double, range(3)))
        """,
        "-o doubled",
    )
    assert plain.value("doubled") == [0, 2, 4]


def test_a_cell_runs_as_a_task_of_flyte(plain):
    cell = plain.task(
        """
        import flyte
        context = flyte.ctx()
        print(bool(context), context.is_in_cluster() if hasattr(context, "is_in_cluster") else "")
        context.action.name
        """
    )
    assert cell.stdout.startswith("True")
    assert cell.result.startswith("'cell-")


def test_a_task_of_the_environment_can_be_awaited_in_a_cell(plain):
    plain.run(
        "@env.task\nasync def double(x: int) -> int:\n    return 2 * x",
    )
    plain.task("doubled_by_task = await double(21)", "-o doubled_by_task")
    assert plain.value("doubled_by_task") == 42


def test_a_task_cell_inside_a_task_cell_is_refused(plain):
    error = plain.fail("%%flyte_task env\n%%flyte_task env\n1")
    assert "cannot hold another" in error.value


def test_the_magics_inside_a_task_refuse_and_say_why(plain):
    error = plain.fail(
        task(
            """
            %load_ext flyte_jupyter
            get_ipython().run_cell_magic("flyte_task", "env", "1")
            """
        )
    )
    assert "task cell already" in error.value
    assert len(plain.processes("driver")) == 1


def test_two_environments_live_side_by_side(plain):
    plain.run('other = flyte.TaskEnvironment(name="other")')
    plain.task("import os\npid_one = os.getpid()", "-o pid_one")
    plain.task("import os\npid_two = os.getpid()", "-o pid_two", environment="other")
    one, two = plain.value("pid_one, pid_two")
    assert {p.pid for p in plain.processes("driver")} == {one, two}
    plain.run("%flyte down other")
    assert [p.pid for p in plain.processes("driver")] == [one]


def test_environments_are_found_by_variable_and_by_name(plain):
    assert plain.task("1", environment="env").result == "1"
    assert plain.task("2", environment="plain").result == "2"
