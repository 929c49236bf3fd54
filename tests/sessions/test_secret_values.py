"""Secrets: where their values come from, when they are asked for, and that nobody sees them."""

from __future__ import annotations

import itertools
import os
import sys
import threading

import flyte
import pytest

from flyte_jupyter import CellTask, UsageError
from flyte_jupyter.sessions.environments import Environment
from flyte_jupyter.sessions.secret_store import SecretStore
from flyte_jupyter.sessions.secret_values import resolve_secrets, secret_names
from tests import leaks

NEVER = "never-shown"
READ = "import os\nvalue = os.environ.get('FJ_TEST_TOKEN')"


def secret_env(*secrets):
    return Environment.of(flyte.TaskEnvironment(name="e", secrets=list(secrets)))


def token_env(name="plain_env", **options):
    secret = flyte.Secret(key="api-key", as_env_var="FJ_TEST_TOKEN")
    return flyte.TaskEnvironment(name=name, secrets=secret, **options)


# -- resolvers, named by the tests as a user's configuration names them ------------------------

asked = []
answers = itertools.count(1)


def ask(group, key):
    return {"api-key": "from the resolver", ("team", "grouped"): "no"}.get(key)


def another_each_time(group, key):
    asked.append((group, key, threading.current_thread()))
    return f"token {next(answers)}"


def raises(group, key):
    raise ConnectionError(f"the vault said {NEVER}")


def leaves(group, key):
    sys.exit(NEVER)


def is_interrupted(group, key):
    raise KeyboardInterrupt


def gives_nothing(group, key):
    return None


def gives_bytes(group, key):
    return NEVER.encode()


def gives_a_null(group, key):
    return f"{NEVER}\0{NEVER}"


def gives_half_a_character(group, key):
    return f"{NEVER}\ud800"


no_function = NEVER


@pytest.fixture(autouse=True)
def _forget():
    asked.clear()


@pytest.fixture
def make(make_session):
    """Make a session whose `plain` asks for a token of a resolver of this module."""

    def with_resolver(function):
        session = make_session(secret_resolver=f"{__name__}:{function}")
        session.namespace["plain"] = token_env()
        return session

    return with_resolver


def read(session, name="plain"):
    return session.wait(session.submit(name, CellTask(READ, returns=("value",))))


# -- where a value comes from ------------------------------------------------------------------


def test_a_secret_comes_from_the_variable_that_it_becomes(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "s3cret")
    environment = secret_env(flyte.Secret(key="api-key", as_env_var="API_TOKEN"))
    assert resolve_secrets(environment, "") == {"API_TOKEN": "s3cret"}


def test_a_secret_comes_from_a_variable_of_its_key(monkeypatch):
    monkeypatch.setenv("API_KEY", "s3cret")
    environment = secret_env(flyte.Secret(key="api-key", as_env_var="TOKEN_IN_TASK"))
    assert resolve_secrets(environment, "") == {"TOKEN_IN_TASK": "s3cret"}


def test_a_secret_of_one_word_is_a_variable(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "s3cret")
    declared = flyte.TaskEnvironment(name="e", secrets="MY_TOKEN")
    assert resolve_secrets(Environment.of(declared), "") == {"MY_TOKEN": "s3cret"}


GITHUB = flyte.Secret(key="token", group="git-hub")
GITLAB = flyte.Secret(key="token", group="gitlab")


def test_secrets_of_one_key_and_several_groups_never_have_one_anothers_value(monkeypatch):
    monkeypatch.setenv("TOKEN", "a stray one")
    store = SecretStore()
    store.ask("token", lambda prompt: "typed without a group")
    with pytest.raises(UsageError, match=r"'token' of e has no value.*%flyte secret git-hub/token"):
        resolve_secrets(secret_env(GITHUB), "", store)
    store.ask("git-hub/token", lambda prompt: "of the one")
    monkeypatch.setenv("GITLAB_TOKEN", "of the other")
    assert resolve_secrets(secret_env(GITHUB, GITLAB), "", store) == {
        "GIT_HUB_TOKEN": "of the one", "GITLAB_TOKEN": "of the other"}  # fmt: skip


def test_a_secret_of_a_group_comes_from_the_variable_of_both(monkeypatch):
    monkeypatch.setenv("GIT_HUB_TOKEN", "s3cret")
    secret = flyte.Secret(key="token", group="git-hub", as_env_var="IN_TASK")
    assert resolve_secrets(secret_env(secret), "") == {"IN_TASK": "s3cret"}


def test_the_resolver_is_asked_for_what_the_environment_lacks():
    environment = secret_env(flyte.Secret(key="api-key", as_env_var="FJ_TEST_TOKEN"))
    assert resolve_secrets(environment, f"{__name__}:ask") == {"FJ_TEST_TOKEN": "from the resolver"}


def test_a_secret_is_named_without_its_value(monkeypatch):
    monkeypatch.setenv("API_TOKEN", NEVER)
    secret = flyte.Secret(key="api-key", group="team", as_env_var="API_TOKEN")
    (name,) = secret_names(
        secret_env(secret, flyte.Secret("k", mount="/etc/flyte/secrets"))
    ).items()
    assert name[0] == "API_TOKEN"
    assert "team" in name[1]
    assert "api-key" in name[1]
    assert NEVER not in name[1]


# -- what can go wrong -------------------------------------------------------------------------


@pytest.mark.parametrize("resolver", ["", f"{__name__}:ask"])
def test_a_secret_without_a_value_is_named(resolver):
    environment = secret_env(flyte.Secret(key="nowhere", as_env_var="FJ_TEST_NOWHERE"))
    with pytest.raises(UsageError, match=r"'nowhere' of e has no value.*Set FJ_TEST_NOWHERE in"):
        resolve_secrets(environment, resolver)


@pytest.mark.parametrize(
    ("resolver", "seen"),
    [
        ("no_such_module:f", "No module named 'no_such_module'"),
        (f"{__name__}:no_such_function", "no attribute 'no_such_function'"),
        (f"{__name__}:no_function", "is of type str"),
        (":", "Empty module name"),
        ("x", "No module named 'x'"),
    ],
)
def test_a_resolver_that_is_no_function_is_a_usage_error(resolver, seen):
    environment = secret_env(flyte.Secret(key="nowhere", as_env_var="FJ_TEST_NOWHERE"))
    with pytest.raises(UsageError, match="secret_resolver cannot be used") as caught:
        resolve_secrets(environment, resolver)
    assert seen in str(caught.value)
    assert NEVER not in str(caught.value)


def test_a_resolver_whose_module_cannot_be_imported_is_a_usage_error(tmp_path, monkeypatch):
    (tmp_path / "fj_broken_vault.py").write_text(f"raise RuntimeError({NEVER!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="importing fj_broken_vault raised RuntimeError") as caught:
        resolve_secrets(secret_env("nowhere"), "fj_broken_vault:ask")
    assert NEVER not in str(caught.value)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", "cannot be had: {}:raises raised ConnectionError. To see why: from "),
        ("leaves", "cannot be had: {}:leaves raised SystemExit. To see why: from "),
        ("gives_nothing", "has no value: {}:gives_nothing returned None. Set FJ_TEST_TOKEN in "),
        ("gives_bytes", "cannot be had: {}:gives_bytes returned bytes. A resolver returns a str"),
        ("gives_a_null", "cannot be had: {}:gives_a_null returned text that no variable can hold."),
        ("gives_half_a_character", "gives_half_a_character returned text that no variable can "),
    ],
)
def test_a_resolver_that_fails_is_one_line_and_nothing_starts(make, function, said):
    session = make(function)
    for begin in (lambda: session.up("plain"), lambda: read(session)):
        with pytest.raises(UsageError) as caught:
            begin()
        message = str(caught.value)
        assert message.startswith("the secret 'api-key' of plain_env ")
        assert said.format(__name__) in message
        assert "\n" not in message
        assert NEVER not in message
    assert session.clusters == {}
    assert not list(leaks.marked(os.getpid()))
    assert session.said == []


def test_a_resolver_can_be_interrupted_and_nothing_starts(make):
    session = make("is_interrupted")
    with pytest.raises(KeyboardInterrupt):
        read(session)
    assert session.clusters == {}
    assert not list(leaks.marked(os.getpid()))


# -- when it is asked for ----------------------------------------------------------------------


def test_a_token_that_is_another_each_time_is_asked_for_once(make):
    session = make("another_each_time")
    first = read(session)
    assert first.startswith("token ")
    assert read(session) == first
    session.namespace["plain"] = token_env()
    assert session.up("plain") is session.cluster("plain")
    assert read(session) == first
    assert asked == [(None, "api-key", threading.current_thread())], "not on the session's loop"
    assert session.said == []


def test_a_cluster_that_starts_anew_has_another_token(make):
    session = make("another_each_time")
    first = read(session)
    session.namespace["plain"] = token_env(env_vars={"A": "1"})
    second = read(session)
    session.down("plain")
    third = read(session)
    assert len({first, second, third}) == len(asked) == 3
    assert len(session.said) == 1


def test_other_secrets_start_a_cluster_anew(make):
    session = make("another_each_time")
    read(session)
    other = flyte.Secret(key="other-key", group="team", as_env_var="FJ_TEST_TOKEN")
    session.namespace["plain"].secrets = other  # in place: what was asked for must not change along
    read(session)
    assert [(group, key) for group, key, _ in asked] == [(None, "api-key"), ("team", "other-key")]
    assert session.said == ["plain_env is declared differently now: its cluster starts anew."]


def test_a_variable_of_the_notebook_that_changes_holds_from_the_next_cluster_on(make, monkeypatch):
    session = make("raises")
    monkeypatch.setenv("FJ_TEST_TOKEN", "old")
    assert read(session) == "old"
    monkeypatch.setenv("FJ_TEST_TOKEN", "new")
    assert read(session) == "old"
    session.restart("plain")
    assert read(session) == "old", "as on the workers, which stay"
    monkeypatch.delenv("FJ_TEST_TOKEN")
    assert read(session) == "old"
    monkeypatch.setenv("FJ_TEST_TOKEN", "new")
    session.down("plain")
    assert read(session) == "new"
    assert session.said == []


def test_a_cluster_runs_on_if_what_it_is_to_become_has_no_secret(make):
    session = make("ask")
    assert read(session) == "from the resolver"
    driver = session.cluster("plain").driver
    session.namespace["plain"] = flyte.TaskEnvironment(name="plain_env", secrets="nowhere")
    with pytest.raises(UsageError, match="'nowhere' of plain_env has no value"):
        read(session)
    session.namespace["plain"] = token_env()
    assert read(session) == "from the resolver"
    assert session.cluster("plain").driver == driver
    assert session.said == []


def test_the_session_keeps_no_value(make):
    session = make("another_each_time")
    value = read(session)
    cluster = session.cluster("plain")
    assert value not in repr(vars(cluster))
    assert value not in repr(cluster.spec.env)
    assert "api-key" in cluster.spec.env["FJ_TEST_TOKEN"]
