"""Clusters of toy processes under a real supervisor: how they start, change and end."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest
from backend_parts import ESCAPE, alive, appears, driver_of, gone, members, run_code

from flyte_jupyter.backends.backend import DRIVER
from flyte_jupyter.backends.local import processes
from flyte_jupyter.driver.client import DriverClient
from flyte_jupyter.engines.engine import Role
from flyte_jupyter.errors import ClusterError


def facts(status, role):
    return status["facts"][role]


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_a_cluster_of_roles_starts_and_goes_without_a_trace(watched, server, method):
    each = watched(method=method)
    follower = Role("follower", "local_members:follow", replicas=2, after=("server",))
    looker = Role("looker", "local_members:stream_of_facts")
    await each.create(
        server,
        follower,
        looker,
        preload=("local_members",),
        prepare="local_members:prepare",
        env={"TOY": "of this environment"},
    )
    status = await each.ready()
    folder = each.backend.folder("toy")

    assert facts(status, "server")[0]["args"] == {"prepared_in": str(folder), "shared": "for all"}
    assert [f["server"] for f in facts(status, "follower")] == [
        facts(status, "server")[0]["pid"]
    ] * 2
    (look,) = facts(status, "looker")
    assert look["session"], "each member leads a session of its own"
    assert look["stdin"] == os.devnull
    assert look["cwd"] == str(Path.cwd())
    assert look["path"] == sys.path
    assert look["environ"] == {"FLYTE_JUPYTER_CLUSTER": folder.name, "TOY": "of this environment"}

    bound, printed = await each.in_driver("print('hello')\nx = 6 * 7", returns=["x"])
    assert (bound, printed) == ({"x": 42}, "hello\n")

    pids = [m["pid"] for m in status["members"]]
    assert all(map(alive, pids))
    await each.backend.delete("toy")
    assert not any(map(alive, pids))
    assert not folder.exists()
    assert each.told[-1][1]["state"] == "stopped"


async def test_create_get_and_delete_can_be_called_again(watched):
    each = watched()
    assert await each.backend.get("toy") is None
    await each.backend.delete("toy")
    await each.create()
    await each.create()
    status = await each.ready()
    await each.create()
    assert (await each.backend.get("toy"))["members"] == status["members"]
    assert len(psutil.Process().children()) >= 1
    await asyncio.gather(each.backend.delete("toy"), each.backend.delete("toy"))
    await each.backend.delete("toy")
    assert await each.backend.get("toy") is None
    assert each.backend.folder("toy") is None
    assert each.backend.log("toy", "driver.log") == ""
    with pytest.raises(ClusterError, match="toy has no cluster"):
        each.backend.address("toy")


async def test_a_cluster_that_is_deleted_can_be_created_again(watched):
    each = watched()
    await each.create()
    first = (await each.ready(), each.backend.folder("toy"))[1]
    await each.backend.delete("toy")
    each.told.clear()
    await each.create()
    await each.ready()
    assert each.backend.folder("toy") not in (None, first)


async def test_a_cluster_can_be_deleted_while_it_starts(watched):
    each = watched()
    await each.create(Role("late", "local_members:never_ready"))
    await each.until(lambda s: all(m["pid"] for m in s["members"]) and s["members"])
    await each.backend.delete("toy")
    assert each.told[-1][1]["state"] == "stopped"


async def test_two_clusters_of_one_backend_know_nothing_of_each_other(watched, server):
    each = watched()
    await asyncio.gather(each.create(server, name="one"), each.create(server, name="two"))
    await asyncio.gather(each.ready("one"), each.ready("two"))
    await each.backend.delete("one")
    assert (await each.backend.get("two"))["state"] == "ready"
    assert (await each.in_driver("x = 1", "two", ["x"]))[0] == {"x": 1}


async def test_a_dead_member_is_replaced_and_the_driver_stays(watched, server):
    each = watched()
    await each.create(server)
    before = await each.ready()
    os.kill(members(before, "server")[0]["pid"], signal.SIGKILL)
    after = await each.until(
        lambda s: [(m["generation"], m["state"]) for m in members(s, "server")] == [(2, "ready")]
    )
    assert members(after, "server")[0]["exit"] == "killed by SIGKILL"
    assert facts(after, "server")[0]["pid"] == members(after, "server")[0]["pid"]
    assert driver_of(after)["pid"] == driver_of(before)["pid"]


async def test_scaling_adds_members_and_lets_others_leave(watched, server):
    each = watched()
    await each.create(server, retire="local_members:retire")
    await each.ready()
    await each.backend.scale("toy", "server", 3)
    status = await each.until(lambda s: len(s["facts"].get("server", ())) == 3)
    assert [m["index"] for m in members(status, "server")] == [0, 1, 2]
    folder = each.backend.folder("toy")
    await each.backend.scale("toy", "server", 1)
    assert await appears(folder / "retired") == "server-1 server-2"
    # They take no notice of their retirement: more comes in while they still leave.
    await each.backend.scale("toy", "server", 2)
    await each.until(lambda s: any(m["index"] == 3 for m in members(s, "server")))
    for member in members(status, "server")[1:]:
        os.kill(member["pid"], signal.SIGTERM)
    status = await each.until(
        lambda s: (
            [(m["index"], m["state"]) for m in members(s, "server")] == [(0, "ready"), (3, "ready")]
        )
    )
    assert status["state"] == "ready"


async def test_scaling_down_before_anything_has_started_leaves_no_ghost(watched):
    each = watched()
    role = Role("server", "local_members:serve", replicas=3, scalable=True)
    await each.create(role, prepare="local_members:prepare", preload=("local_members",))
    await each.backend.scale("toy", "server", 1)
    status = await each.ready()
    status = await each.until(lambda s: len(members(s, "server")) == 1)
    assert [m["state"] for m in members(status, "server")] == ["ready"]


async def test_scaling_a_role_that_is_not_there_leaves_the_cluster_alone(watched, server):
    each = watched()
    await each.create(server)
    await each.ready()
    await each.backend.scale("toy", "nonsense", 3)
    await each.backend.scale("toy", "server", 2)
    await each.until(lambda s: len(s["facts"].get("server", ())) == 2)


async def test_the_death_of_a_vital_member_is_told_with_its_log(watched):
    each = watched()
    await each.create(Role("head", "local_members:serve", vital=True))
    status = await each.ready()
    os.kill(members(status, "head")[0]["pid"], signal.SIGSEGV)
    status = await each.failed()
    assert status["reason"] == "head-0 ended: killed by SIGSEGV"
    pids = [m["pid"] for m in status["members"]]
    each.backend.dismiss("toy")
    await gone(pids)
    await each.backend.delete("toy")
    assert await each.backend.get("toy") is None


@pytest.mark.parametrize(
    ("target", "reason", "words"),
    [
        ("local_members:leave_at_once", "exit code 3", "nothing to do here"),
        ("local_members:raise_at_once", "exit code 1", "ValueError: this role cannot be played"),
        ("local_members:absent", "exit code 1", "AttributeError"),
        ("no_such_module:at_all", "exit code 1", "No module named 'no_such_module'"),
    ],
)
async def test_a_member_that_cannot_start_fails_the_cluster(watched, target, reason, words):
    each = watched()
    await each.create(Role("actor", target))
    status = await each.failed()
    assert status["reason"] == f"actor-0 ended: {reason}"
    assert members(status, "actor")[0]["generation"] == 3
    assert words in each.backend.log("toy", "actor-0.log")


async def test_a_log_is_read_from_its_end_and_by_its_name_alone(watched):
    each = watched()
    await each.create(Role("actor", "local_members:leave_at_once"))
    await each.failed()
    assert each.backend.log("toy", "actor-0.log", last=5) == "here\n"
    assert each.backend.log("toy", "../supervisor") == ""
    assert each.backend.log("toy", "no.log") == ""


async def test_a_preload_that_cannot_be_imported_fails_the_cluster(watched, tmp_path):
    (tmp_path / "broken_preload.py").write_text("raise RuntimeError('no licence found')\n")
    sys.path.insert(0, str(tmp_path))
    try:
        each = watched(method="fork")
        await each.create(preload=("broken_preload",))
        status = await each.failed()
        assert "RuntimeError: no licence found" in status["reason"]
        assert "broken_preload.py" in each.backend.log("toy", "zygote.log")
    finally:
        sys.path.remove(str(tmp_path))


async def test_a_preparation_that_fails_fails_the_cluster(watched, server):
    each = watched()
    await each.create(server, prepare="local_members:prepare_badly")
    status = await each.failed()
    assert status["reason"] == "RuntimeError: no certificate today"


async def test_a_further_preload_that_is_not_installed_does_not_fail_the_cluster(watched):
    each = watched(method="fork", preload=["no_such_module", "local_members"])
    await each.create()
    await each.ready()
    bound, _ = await each.in_driver("import sys\nx = 'local_members' in sys.modules", returns=["x"])
    assert bound == {"x": True}
    assert "no_such_module" in each.backend.log("toy", "zygote.log")


async def test_members_draw_random_numbers_of_their_own(watched):
    each = watched(method="fork", preload=["numpy.random"])
    await each.create(Role("drawing", "local_members:draw", replicas=2))
    one, other = facts(await each.ready(), "drawing")
    assert not set(one["drawn"]) & set(other["drawn"])


async def test_a_crash_loop_of_a_worker_ends_with_the_rest_intact(watched, server):
    each = watched()
    await each.create(server, Role("mad", "local_members:crash_when_ready"))
    status = await each.until(
        lambda s: s["state"] == "ready" and members(s, "mad")[0]["state"] == "exited"
    )
    assert members(status, "mad")[0]["exit"] == "killed by SIGKILL"
    assert members(status, "server")[0]["state"] == "ready"
    assert (await each.in_driver("x = 1", returns=["x"]))[0] == {"x": 1}


@pytest.mark.parametrize("how", ["killed", "restarted", "os._exit"])
async def test_what_a_driver_has_started_ends_with_it(watched, server, how):
    each = watched()
    await each.create(server)
    before = await each.ready()
    folder = each.backend.folder("toy")
    code = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {ESCAPE!r}, {str(folder / 'escaped')!r}])\n"
        "child = subprocess.Popen(['sh', '-c', 'sleep 600 & echo $! > "
        f"{folder / 'child.new'}; mv {folder / 'child.new'} {folder / 'child'}; wait'])\n"
        "pid = child.pid"
    )
    bound, _ = await each.in_driver(code, returns=["pid"])
    escaped = [int(pid) for pid in (await appears(folder / "escaped")).split()]
    child = [bound["pid"], int(await appears(folder / "child"))]
    assert all(map(alive, [*escaped, *child]))

    leaving = None
    if how == "killed":
        os.kill(driver_of(before)["pid"], signal.SIGKILL)
    elif how == "restarted":
        await each.backend.restart_driver("toy")
    else:
        leaving = asyncio.ensure_future(each.in_driver("import os\nos._exit(7)"))  # no reply comes
    after = await each.until(
        lambda s: (driver_of(s)["generation"], driver_of(s)["state"]) == (2, "ready")
    )
    if leaving:
        leaving.cancel()
    await gone([*escaped, *child])
    assert driver_of(after)["exit"] == ("exit code 7" if how == "os._exit" else "killed by SIGKILL")
    assert members(after, "server") == members(before, "server")
    assert each.backend.address("toy").generation == 2
    assert (await each.in_driver("x = 1", returns=["x"]))[0] == {"x": 1}


async def test_what_has_escaped_from_a_cluster_ends_with_it(watched):
    each = watched()
    await each.create(Role("tree", "local_members:leave_a_tree"))
    await each.ready()
    escaped = [int(p) for p in (await appears(each.backend.folder("toy") / "escaped")).split()]
    assert all(map(alive, escaped))
    await each.backend.delete("toy")
    assert not any(map(alive, escaped))


async def test_members_that_ignore_being_asked_to_end_are_killed(watched):
    each = watched()
    await each.create(Role("stubborn", "local_members:ignore_sigterm", replicas=2))
    status = await each.ready()
    pids = [m["pid"] for m in status["members"]]
    await each.backend.delete("toy")
    assert not any(map(alive, pids))


async def test_a_killed_supervisor_takes_its_cluster_along(watched):
    each = watched()
    await each.create(Role("tree", "local_members:leave_a_tree"))
    status = await each.ready()
    folder = each.backend.folder("toy")
    pids = [m["pid"] for m in status["members"]]
    pids += [int(pid) for pid in (await appears(folder / "escaped")).split()]
    supervisor = int((folder / "supervisor").read_text().split()[0])
    os.kill(supervisor, signal.SIGKILL)
    status = await each.failed()
    assert status["reason"] == "its supervisor ended: killed by SIGKILL"
    assert not folder.exists()
    await gone(pids)
    assert await each.backend.get("toy") is None
    each.told.clear()
    await each.create()
    await each.ready()


async def test_a_killed_zygote_is_told_and_nothing_remains(watched, server):
    each = watched()
    await each.create(server)
    status = await each.ready()
    supervisor = int((each.backend.folder("toy") / "supervisor").read_text().split()[0])
    (zygote,) = psutil.Process(supervisor).children()
    zygote.kill()
    told = await each.failed()
    assert told["reason"] == "the process that all members are forked from has ended"
    await gone([m["pid"] for m in status["members"]])


async def test_a_supervisor_that_is_asked_to_end_ends_its_cluster(watched, server):
    each = watched()
    await each.create(server)
    status = await each.ready()
    supervisor = int((each.backend.folder("toy") / "supervisor").read_text().split()[0])
    os.kill(supervisor, signal.SIGTERM)
    await each.until(lambda s: s["state"] == "stopped")
    await gone([supervisor, *(m["pid"] for m in status["members"])])


async def test_only_the_owner_can_look_at_or_connect_to_a_cluster(watched, server):
    each = watched()
    await each.create(server)
    status = await each.ready()
    folder = each.backend.folder("toy")
    connection = each.backend.address("toy").connection
    assert connection["transport"] == "ipc"
    assert Path(connection["ip"]).parent == folder
    for path in (folder.parent, folder, folder / "logs"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert path.stat().st_uid == os.getuid()
    logs = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder / "logs").iterdir()}
    assert logs == dict.fromkeys(["driver.log", "server-0.log", "zygote.log"], 0o600)
    sockets = [path for path in folder.iterdir() if stat.S_ISSOCK(path.stat().st_mode)]
    channels = {f"d1-{port}" for port in range(1, 7)}
    assert {path.name for path in sockets} == {*channels, "d1-children"}
    pids = [int((folder / "supervisor").read_text().split()[0])]
    pids += [p.pid for p in psutil.Process(pids[0]).children(recursive=True)]
    assert {m["pid"] for m in status["members"]} < set(pids)
    assert not any(psutil.Process(pid).net_connections(kind="inet") for pid in pids)


@pytest.mark.parametrize("method", ["fork", "spawn"])
async def test_no_key_is_visible_in_a_command_line(watched, server, method):
    each = watched(method=method)
    await each.create(server, prepare="local_members:prepare", env={"TOY": "a-secret-value"})
    await each.ready()
    key = each.backend.address("toy").connection["key"]
    supervisor = psutil.Process(
        int((each.backend.folder("toy") / "supervisor").read_text().split()[0])
    )
    for process in [supervisor, *supervisor.children(recursive=True)]:
        command = " ".join(process.cmdline())
        assert key not in command
        assert "for all" not in command, "what the engine prepared may be a token"
        assert "a-secret-value" not in command


async def test_a_driver_reads_only_what_bears_its_key(watched):
    each = watched()
    await each.create()
    await each.ready()
    connection = {**each.backend.address("toy").connection, "key": "0" * 64}
    client = DriverClient(connection)
    await client.connect()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await run_code(client, "x = 1")
    client.close()
    assert (await each.in_driver("x = 1", returns=["x"]))[0] == {"x": 1}


def test_a_method_is_chosen_for_the_platform(watched):
    expected = "fork" if sys.platform == "linux" else "spawn"
    assert watched().backend._method == expected
    assert watched(method="spawn").backend._method == "spawn"
    assert DRIVER == "driver"
    assert processes.MARK == "FLYTE_JUPYTER_CLUSTER"
