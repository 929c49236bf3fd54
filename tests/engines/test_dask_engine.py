"""What a Dask cluster is made of, as described before anything starts."""

from __future__ import annotations

import importlib.util
import os
import stat

import flyte
import pytest
from flyteplugins.dask import Dask, Scheduler, WorkerGroup

from flyte_jupyter.engines.dask.engine import DaskEngine
from flyte_jupyter.engines.engine import ClusterSpec
from flyte_jupyter.errors import EngineError, UsageError

ENGINE = DaskEngine()


def dask(count=2, **resources):
    asked = flyte.Resources(**resources) if resources else None
    return Dask(workers=WorkerGroup(number_of_workers=count, resources=asked))


def test_a_cluster_is_a_vital_scheduler_and_workers_that_scale():
    spec = ENGINE.describe(dask(3), None)
    assert [(r.name, r.replicas, r.vital, r.scalable) for r in spec.roles] == [
        ("scheduler", 1, True, False),
        ("worker", 3, False, True),
    ]
    assert spec.role("worker").after == ("scheduler",)
    assert spec.role("nothing") is None


def test_a_description_crosses_a_process_unchanged():
    import json

    spec = ENGINE.describe(dask(2), None)
    again = ClusterSpec.from_json(json.loads(json.dumps(spec.as_json())))
    assert again == spec


def test_workers_take_what_their_group_asks_for():
    args = ENGINE.describe(dask(2, cpu=3, memory="1Gi"), None).role("worker").args
    assert (args["threads"], args["memory"]) == (3, 2**30)
    more = ENGINE.describe(dask(5, cpu=3, memory="1Gi"), None).role("worker").args
    assert more == args, "more of the same are had by scaling"


def test_workers_share_the_machine_when_nothing_is_asked_for():
    args = ENGINE.describe(dask(1), None).role("worker").args
    assert (args["threads"], args["memory"]) == (os.cpu_count(), 0)
    assert ENGINE.describe(dask(1000), None).role("worker").args["threads"] == 1


@pytest.mark.parametrize("count", [0, -1, 1.5, "4", None, True])
def test_a_number_of_workers_that_is_none_is_refused(count):
    with pytest.raises(EngineError, match="at least one worker"):
        ENGINE.describe(dask(count), None)


def test_options_make_the_config():
    made = ENGINE.configure({"workers": "3", "worker-cpu": "2", "worker-memory": "1Gi"})
    assert made.workers.number_of_workers == 3
    assert (made.workers.resources.cpu, made.workers.resources.memory) == ("2", "1Gi")
    assert ENGINE.configure({}).workers.resources is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"worker": "3"}, "Dask has no option --worker"),
        ({"workers": "0"}, "--workers takes a whole number"),
        ({"workers": "many"}, "--workers takes a whole number"),
        ({"workers": "²"}, "--workers takes a whole number"),
    ],
)
def test_an_option_that_makes_no_sense_is_a_usage_error(options, said):
    with pytest.raises(UsageError, match=said):
        ENGINE.configure(options)


@pytest.mark.parametrize("options", [{"worker-cpu": "lots"}, {"worker-memory": "4gi"}])
def test_a_quantity_that_cannot_be_read_is_said_at_once(options):
    with pytest.raises((EngineError, UsageError)):
        ENGINE.configure(options)


def test_what_a_local_process_cannot_have_is_named():
    assert ENGINE.ignored(dask(2, cpu=1)) == {}
    config = Dask(
        scheduler=Scheduler(image="ghcr.io/a/b:c", resources=flyte.Resources(cpu=1)),
        workers=WorkerGroup(image="ghcr.io/a/b:c", resources=flyte.Resources(gpu=1, disk="1Gi")),
    )
    assert set(ENGINE.ignored(config)) == {
        "scheduler.image",
        "scheduler.resources",
        "workers.image",
        "workers.resources.gpu",
        "workers.resources.disk",
    }


def test_the_dashboard_is_a_link_once_there_is_one():
    assert ENGINE.links({}) == {}
    facts = {"scheduler": [{"dashboard": "http://127.0.0.1:1/t/status"}]}
    assert ENGINE.links(facts) == {"Dask dashboard": "http://127.0.0.1:1/t/status"}


@pytest.mark.parametrize("missing", ["distributed", "cryptography"])
def test_a_package_that_is_not_installed_is_named_with_the_command(monkeypatch, missing):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find(name)
    )
    with pytest.raises(EngineError, match=rf"{missing}.*pip install 'flyte-jupyter\[dask\]'"):
        ENGINE.describe(dask(), None)


def test_certificates_are_for_their_owner_and_for_this_machine(tmp_path):
    import ipaddress
    import ssl

    from cryptography import x509

    from flyte_jupyter.engines.dask.tls import make_certificates

    paths = make_certificates(tmp_path)
    assert {stat.S_IMODE(os.stat(path).st_mode) for path in paths.values()} == {0o600}
    with open(paths["cert"], "rb") as file:
        certificate = x509.load_pem_x509_certificate(file.read())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    context = ssl.create_default_context(cafile=paths["ca"])
    context.load_cert_chain(paths["cert"], paths["key"])
    with pytest.raises(FileExistsError):
        make_certificates(tmp_path)
