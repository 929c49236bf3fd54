"""Secrets that are typed where nothing echoes, or kept in a keyring."""

from __future__ import annotations

import pickle

import pytest

from flyte_jupyter.errors import UsageError
from flyte_jupyter.sessions import secret_store
from flyte_jupyter.sessions.secret_store import SecretStore
from tests.notebook import notebook, task

DECLARE = """\
import flyte
env = flyte.TaskEnvironment(name="s", secrets=[flyte.Secret(key="api-key", as_env_var="API_KEY")])
"""
HASH = "import hashlib, os\nfound = hashlib.sha256(os.environ['API_KEY'].encode()).hexdigest()"
TYPED = "typed-never-shown"
KEYRING = """
import json, pathlib, keyring.backend
class Backend(keyring.backend.KeyringBackend):
    priority = 1
    file = pathlib.Path(__file__).with_name("kept.json")
    def _read(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {}
    def get_password(self, service, name):
        return self._read().get(f"{service} {name}")
    def set_password(self, service, name, value):
        self.file.write_text(json.dumps({**self._read(), f"{service} {name}": value}))
    def delete_password(self, service, name):
        kept = self._read()
        del kept[f"{service} {name}"]
        self.file.write_text(json.dumps(kept))
"""


def hashed(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def book(tmp_path):
    pytest.importorskip("keyring")
    (tmp_path / "kept_here.py").write_text(KEYRING)
    environ = {"PYTHON_KEYRING_BACKEND": "kept_here.Backend", "PYTHONPATH": str(tmp_path)}
    with notebook(tmp_path, DECLARE, env=environ) as book:
        yield book


def test_a_secret_is_typed_and_shown_nowhere(book):
    assert "type it with %flyte secret api-key" in book.fail(task("1")).value
    assert "nowhere yet" in book.run("%flyte secret").shown
    cell = book.run("%flyte secret api-key", answers=[TYPED])
    assert cell.asked[0]["password"] is True
    assert "this session" in book.run("%flyte secret").shown
    book.task(HASH, "-o found")
    assert book.value("found") == hashed(TYPED)
    book.run("repr(get_ipython()._flyte_jupyter.session.secrets)")
    assert TYPED not in "".join(cell.shown for cell in book.cells.values())
    assert "forgotten" in book.run("%flyte secret api-key --forget").shown
    assert "none" in book.run("%flyte secret api-key --forget").shown


def test_a_keyring_has_it_for_the_next_session(book):
    book.run("%flyte secret api-key --keyring", answers=[TYPED])
    book.restart()
    book.run("%load_ext flyte_jupyter")
    book.run(DECLARE)
    assert "the keyring" in book.run("%flyte secret").shown
    book.task(HASH, "-o found")
    assert book.value("found") == hashed(TYPED)
    book.run("%flyte secret api-key --forget")
    assert "nowhere yet" in book.run("%flyte secret").shown


def test_where_nobody_can_be_asked_that_is_said(book):
    error = book.fail("%flyte secret api-key")
    assert error.name == "UsageError"
    assert "nobody can be asked for api-key" in error.value


def test_what_cannot_be_hidden_is_not_asked():
    import getpass
    import warnings

    def in_the_open(prompt: str) -> str:
        warnings.warn("cannot control echo", getpass.GetPassWarning, stacklevel=1)
        raise AssertionError("it was read in the open")

    with pytest.raises(UsageError, match="nobody can be asked for x: GetPassWarning"):
        SecretStore().ask("x", in_the_open)


def test_nothing_typed_is_no_secret():
    with pytest.raises(UsageError, match="nothing was typed"):
        SecretStore().ask("x", lambda prompt: "")


def test_a_store_cannot_be_pickled():
    store = SecretStore()
    store.ask("x", lambda prompt: TYPED)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(store)
    assert TYPED not in repr(store)


def test_a_keyring_that_refuses_says_nothing_of_the_secret(monkeypatch):
    class Refusing:
        @staticmethod
        def set_password(service, name, value):
            raise OSError(f"cannot keep {value}")

    monkeypatch.setattr(secret_store, "_keyring", lambda: Refusing)
    with pytest.raises(UsageError) as caught:
        SecretStore().ask("x", lambda prompt: TYPED, keyring=True)
    assert TYPED not in str(caught.value)
