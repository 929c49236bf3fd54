"""Tasks of connectors that the notebook defines, against a real HTTP service."""

from __future__ import annotations

import time

import pytest

from tests import leaks
from tests.notebook import Notebook, notebook
from tests.training_service import TrainingService

# The example of Flyte's page on integrations, as it is printed there; its service is the test's.
CONNECTOR = """\
import typing
from dataclasses import dataclass

import httpx
from flyte.connectors import AsyncConnector, Resource, ResourceMeta
from flyteidl2.core.execution_pb2 import TaskExecution, TaskLog
from flyteidl2.core.tasks_pb2 import TaskTemplate
from google.protobuf import json_format


@dataclass
class ModelTrainJobMeta(ResourceMeta):
    job_id: str
    endpoint: str


class ModelTrainingConnector(AsyncConnector):
    name = "Model Training Connector"
    task_type_name = "external_model_training"
    metadata_type = ModelTrainJobMeta

    async def create(
        self,
        task_template: TaskTemplate,
        inputs: typing.Optional[typing.Dict[str, typing.Any]],
        **kwargs,
    ) -> ModelTrainJobMeta:
        custom = json_format.MessageToDict(task_template.custom) if task_template.custom else None
        async with httpx.AsyncClient() as client:
            r = await client.post(
                custom["endpoint"],
                json={"dataset_uri": inputs["dataset_uri"], "epochs": inputs["epochs"]},
            )
        r.raise_for_status()
        return ModelTrainJobMeta(job_id=r.json()["job_id"], endpoint=custom["endpoint"])

    async def get(self, resource_meta: ModelTrainJobMeta, **kwargs) -> Resource:
        async with httpx.AsyncClient() as client:
            r = await client.get(f"{resource_meta.endpoint}/{resource_meta.job_id}")

        data = r.json()

        if data["status"] == "finished":
            return Resource(
                phase=TaskExecution.SUCCEEDED,
                log_links=[TaskLog(name="training-dashboard", uri=f"https://example-mltrain.com/train/{resource_meta.job_id}")],
                outputs={"results": data["results"]},
            )
        OTHER_ENDINGS
        return Resource(phase=TaskExecution.RUNNING)

    async def delete(self, resource_meta: ModelTrainJobMeta, **kwargs):
        async with httpx.AsyncClient() as client:
            await client.delete(f"{resource_meta.endpoint}/{resource_meta.job_id}")
"""
ENDINGS = """if data["status"] != "running":
            return Resource(phase=TaskExecution.Phase.Value(data["status"]),
                message=data.get("message"), custom_info=data.get("info"))
"""
TASK = """\
import flyte.io
from typing import Any, Dict, Optional

from flyte.extend import TaskTemplate
from flyte.connectors import AsyncConnectorExecutorMixin
from flyte.models import NativeInterface, SerializationContext


class ModelTrainTask(AsyncConnectorExecutorMixin, TaskTemplate):
    _TASK_TYPE = "external_model_training"

    def __init__(
        self,
        name: str,
        endpoint: str,
        **kwargs,
    ):
        super().__init__(
            name=name,
            interface=NativeInterface(
                inputs={"epochs": int, "dataset_uri": str},
                outputs={"results": flyte.io.File},
            ),
            task_type=self._TASK_TYPE,
            **kwargs,
        )
        self.endpoint = endpoint

    def custom_config(self, sctx: SerializationContext) -> Optional[Dict[str, Any]]:
        return {"endpoint": self.endpoint}
"""
USE = """\
import flyte

model_train_task = ModelTrainTask(
    name="model_train",
    endpoint="ENDPOINT",
)

model_train_env = flyte.TaskEnvironment.from_task("model_train_env", model_train_task)

env = flyte.TaskEnvironment(
    name="hello_world",
    resources=flyte.Resources(memory="250Mi"),
    image=flyte.Image.from_debian_base(name="model_training").with_pip_packages(
        "flyteplugins-model-training", pre=True
    ),
    depends_on=[model_train_env],
)


@env.task
def data_prep() -> str:
    return "gs://my-bucket/dataset.csv"


@env.task
def train_model(epochs: int) -> flyte.io.File:
    dataset_uri = data_prep()
    return model_train_task(epochs=epochs, dataset_uri=dataset_uri)
"""
RUN = "flyte_jupyter.run(model_train_task, epochs=2, dataset_uri='s3://x').result()"


@pytest.fixture(scope="module")
def service():
    service = TrainingService()
    yield service
    service.close()


@pytest.fixture(scope="module")
def shared(service, tmp_path_factory) -> Notebook:
    with notebook(tmp_path_factory.mktemp("connectors")) as book:
        declare(book, service)
        yield book


@pytest.fixture
def book(shared, service) -> Notebook:
    """A notebook with the example, and a service that is done at once."""
    service.jobs.clear()
    service.answers.clear()
    service.seconds, service.ending = 0.0, {"status": "finished"}
    return shared


def declare(book: Notebook, service: TrainingService) -> None:
    book.run("import flyte_jupyter")
    book.run('%config FlyteJupyter.provided_packages = ["flyteplugins-model-training"]')
    book.run(CONNECTOR.replace("OTHER_ENDINGS", ENDINGS))
    book.run(TASK)
    book.run(USE.replace("ENDPOINT", service.endpoint))


def another(book: Notebook, name: str, **fields) -> str:
    """Declare such a task with other fields, and return the code that runs it."""
    given = ", ".join(f"{key}={value!r}" for key, value in fields.items())
    book.run(
        f"{name} = ModelTrainTask(name={name!r}, **{{'endpoint': model_train_task.endpoint, "
        f"**dict({given})}})\n{name}_env = flyte.TaskEnvironment.from_task('{name}_env', {name})"
    )
    return RUN.replace("model_train_task", name)


def displayed(cell) -> list[str]:
    return [c["data"]["text/plain"] for c in cell.of("display_data", "update_display_data")]


def test_the_example_runs_as_it_is_printed(book, service):
    book.run("result = flyte_jupyter.run(train_model, epochs=3).result()")
    ((name, job),) = service.jobs.items()
    assert book.value("result.path, type(result).__name__") == (f"s3://models/{name}.bin", "File")
    assert job.asked == {"dataset_uri": "gs://my-bucket/dataset.csv", "epochs": 3}
    assert not job.deleted


def test_every_cell_of_it_can_be_run_again(book, service):
    declare(book, service)
    assert book.run(RUN).result.startswith("File(path='s3://models/")
    book.run(
        CONNECTOR.replace("OTHER_ENDINGS", ENDINGS).replace('data["results"]', '"s3://other.bin"')
    )
    assert "s3://other.bin" in book.run(RUN).result, "the connector before the edit was asked"
    declare(book, service)


def test_an_async_parent_awaits_it(book):
    book.run(
        "@env.task\nasync def both() -> list:\n    import asyncio\n"
        "    calls = [model_train_task(epochs=n, dataset_uri='s3://x') for n in (1, 2)]\n"
        "    return [file.path for file in await asyncio.gather(*calls)]"
    )
    assert len(set(book.value("flyte_jupyter.run(both).result()"))) == 2


def test_a_cell_awaits_it(book):
    book.task("file = await model_train_task(epochs=1, dataset_uri='s3://x')", "-o file")
    assert book.value("file.path").startswith("s3://models/")


def test_links_and_what_the_service_says_are_shown_live(book, service):
    service.seconds = 600
    cell = book.submit(RUN)
    book.until(lambda: displayed(cell), what="the job to be shown")
    assert displayed(cell) == ["model_train: RUNNING"]
    service.seconds = 0
    service.answers = [
        (200, {"status": "QUEUED", "message": "third in line", "info": {"loss": 0.5, "<b>": 1}})
    ]
    book.wait(cell)
    shown = displayed(cell)
    assert 'model_train: QUEUED  third in line  {"loss": 0.5, "<b>": 1}' in shown
    assert shown[-1].startswith("model_train: SUCCEEDED  training-dashboard: https://example")
    page = cell.of("update_display_data")[-1]["data"]["text/html"]
    assert "<a href='https://example-mltrain.com/train/" in page
    assert "target='_blank'" in page
    assert "<b>&" not in str(cell.of("update_display_data")[-2]["data"]["text/html"])


def test_a_job_that_is_done_is_looked_at_once(book, service):
    book.run(RUN)
    (job,) = service.jobs.values()
    assert job.looks == 1


def test_it_is_looked_at_less_and_less(book, service):
    service.seconds = 4.0
    book.run(RUN)
    (job,) = service.jobs.values()
    assert 5 < job.looks < 15


# -- ends ---------------------------------------------------------------------------------------


def running(book: Notebook, service: TrainingService, code: str = RUN):
    """Submit a cell whose job goes on for ever, and wait until it does."""
    service.seconds = 600
    cell = book.submit(code)
    book.until(lambda: service.alive and displayed(cell), what="the job to run")
    return cell


def gone(service: TrainingService) -> bool:
    return bool(leaks.until(lambda: not service.alive))


@pytest.mark.parametrize("code", [RUN, "flyte_jupyter.run(train_model, epochs=3).result()"])
def test_an_interrupt_deletes_the_job(book, service, code):
    cell = running(book, service, code)
    book.interrupt()
    book.wait(cell)
    assert cell.error.name == "KeyboardInterrupt"
    assert gone(service)
    assert displayed(cell)[-1] == "model_train: DELETED"


def test_cancelling_its_run_deletes_the_job(book, service):
    running(book, service, "run = " + RUN.removesuffix(".result()"))
    book.run("run.cancel()")
    assert gone(service)
    assert leaks.until(lambda: "cancelled" in book.run("run").shown)


def test_its_time_limit_deletes_the_job(book, service):
    service.seconds = 600
    error = book.fail(another(book, "hasty", timeout=1))
    assert error.name == "TaskTimeout"
    assert gone(service)


@pytest.fixture
def own(service, tmp_path) -> Notebook:
    with notebook(tmp_path) as book:
        declare(book, service)
        service.jobs.clear()
        service.answers.clear()
        service.seconds, service.ending = 600, {"status": "finished"}
        yield book


def test_a_connector_that_blocks_leaves_no_job_and_stands_in_nobodys_way(own, service):
    own.run("""if True:
        import time
        answers = ModelTrainingConnector.get
        async def blocks(self, resource_meta, **kwargs):
            time.sleep(600)
        ModelTrainingConnector.get = blocks""")
    cell = own.submit(RUN)
    own.until(lambda: service.alive, what="the job")
    own.interrupt()
    assert own.wait(cell).error.name == "KeyboardInterrupt"
    assert gone(service)
    assert "its connector does not answer" in cell.stderr
    service.seconds = 0.0
    own.run("ModelTrainingConnector.get = answers")
    assert "File" in own.run(RUN).result


def test_a_killed_kernel_leaves_no_job(own, service):
    running(own, service)
    own.kill()
    assert gone(service)


def test_a_kernel_that_ends_leaves_no_job(own, service):
    running(own, service)
    own.shutdown()
    assert gone(service)


def test_a_killed_driver_leaves_no_job(own, service):
    cell = running(own, service)
    for driver in own.processes("driver"):
        driver.kill()
    own.wait(cell)
    assert cell.error.name == "DriverLost"
    assert gone(service)


def test_a_killed_keeper_is_replaced(own, service):
    cell = running(own, service)
    (keeper,) = own.processes("keeper")
    keeper.kill()
    own.interrupt()
    own.wait(cell)
    assert gone(service)
    running(own, service)
    own.kill()
    assert gone(service)


def test_a_connector_that_cannot_travel_spoils_no_other_task(own):
    own.run(
        "import threading\nclass Odd(ModelTrainingConnector):\n    task_type_name = 'odd'\n"
        "    def __init__(self):\n        self.lock = threading.Lock()"
    )
    own.task("1 + 1", environment="env")


REGISTERING = """
from flyte.connectors import AsyncConnector, ConnectorRegistry, Resource, ResourceMeta
class Beside(AsyncConnector):
    name = task_type_name = "beside"
    metadata_type = ResourceMeta
    async def create(self, task_template, inputs=None, **kwargs): ...
    async def get(self, resource_meta, **kwargs): ...
    async def delete(self, resource_meta, **kwargs): ...
ConnectorRegistry.register(Beside())
"""


def test_a_module_that_registers_its_connector_is_imported_on_both_sides(own, tmp_path):
    (tmp_path / "beside.py").write_text(REGISTERING)
    own.run("import beside")
    own.task("import beside\nbeside.Beside.name", environment="env")
    (tmp_path / "beside.py").write_text(REGISTERING + "edited = True\n")
    cell = own.task("import beside\nbeside.edited", environment="env")
    assert cell.result == "True"
    assert "not reloaded" not in cell.stderr


def test_a_killed_supervisor_leaves_no_job(own, service):
    running(own, service)
    for supervisor in own.processes("super"):
        supervisor.kill()
    assert gone(service)


def test_a_cluster_that_is_taken_down_leaves_no_job(own, service):
    running(own, service, "run = " + RUN.removesuffix(".result()"))
    own.run("%flyte down")
    assert gone(service)


# -- failures -----------------------------------------------------------------------------------


def one_line(error, name: str, *words: str) -> None:
    assert error.name == name, error
    assert "\n" not in error.value
    assert "Traceback" not in error.traceback
    for word in words:
        assert word in error.value


def test_a_job_that_fails_says_why_and_is_not_tried_again(book, service):
    service.ending = {"status": "FAILED", "message": "the loss is not a number"}
    error = book.fail(another(book, "doomed", retries=3))
    one_line(error, "JobFailed", "the job of doomed ended as FAILED: the loss is not a number")
    assert len(service.jobs) == 1


def test_a_job_that_may_be_tried_again_is(book, service):
    service.answers = [(200, {"status": "RETRYABLE_FAILED", "message": "preempted"})]
    book.run(another(book, "patient", retries=1))
    assert len(service.jobs) == 2
    service.answers = [(200, {"status": "RETRYABLE_FAILED", "message": "preempted"})]
    one_line(book.fail(RUN), "ServiceError", "RETRYABLE_FAILED: preempted")


def test_looks_may_fail(book, service):
    service.answers = [(500, "oops"), (200, "{")]
    assert book.run(RUN).result.startswith("File(")


def test_a_service_that_answers_late_keeps_its_job(book, service):
    service.answers = [(404, "not there yet")] * 5
    cell = book.run(RUN)
    assert cell.result.startswith("File(")
    assert len(service.jobs) == 1
    assert "model_train: no answer since " in displayed(cell)[0]
    assert "SUCCEEDED" in displayed(cell)[-1]


@pytest.fixture
def impatient(book):
    """Have the driver give a job up at the first look that fails."""
    set_patience = "from flyte_jupyter.driver.connectors import job\njob._PATIENCE = {}"
    book.task(set_patience.format(0.0), environment="model_train_env")
    yield
    book.task(set_patience.format(60.0), environment="model_train_env")


@pytest.mark.parametrize(
    "answer", [(200, "no json"), (200, {"stat": 1}), (200, {"status": "WHAT"})]
)
def test_a_service_that_makes_no_sense_is_given_up_and_its_job_deleted(
    book, service, impatient, answer
):
    service.answers = [answer]
    service.seconds = 600
    one_line(book.fail(RUN), "ServiceError", "'get' of Model Training Connector failed", "line")
    assert gone(service)


def test_a_service_that_is_down_is_named(book):
    error = book.fail(another(book, "down", endpoint="http://127.0.0.1:9/jobs"))
    one_line(error, "ServiceError", "'create' of Model Training Connector failed", "ConnectError")


def test_an_output_that_is_not_there_is_named(book):
    book.run(CONNECTOR.replace("OTHER_ENDINGS", "").replace('{"results": data', '{"model": data'))
    error = book.fail(RUN)
    one_line(error, "ConnectorError", "model_train has no output 'results'", "gave model")
    book.run(CONNECTOR.replace("OTHER_ENDINGS", ENDINGS))


def test_a_data_frame_is_read_as_what_was_declared(book, service, tmp_path):
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"x": [1, 2]}).to_parquet(tmp_path / "part.parquet")
    service.ending = {"status": "finished", "results": str(tmp_path)}
    frame = 'flyte.io.DataFrame(uri=data["results"], format="parquet")'
    book.run(CONNECTOR.replace("OTHER_ENDINGS", "").replace('data["results"]}', frame + "}"))
    code = another(book, "tabular")
    book.run("import pandas\ntabular.interface.outputs['results'] = pandas.DataFrame")
    assert book.run(code).result.split() == ["x", "0", "1", "1", "2"]
    book.run(CONNECTOR.replace("OTHER_ENDINGS", ENDINGS))


def test_inputs_that_do_not_fit_are_named_before_anything_runs(book, service):
    assert "'dataset_uri' is missing" in book.fail("flyte_jupyter.run(model_train_task, 1)").value
    wrong = book.fail("flyte_jupyter.run(model_train_task, 1, 's3://x', epoch=1)")
    assert "takes no 'epoch'" in wrong.value
    assert not service.jobs


def test_a_task_without_a_connector_is_named(book):
    code = another(book, "lost")
    book.run("lost.task_type = 'unheard'")
    error = book.fail(code)
    one_line(error, "ConnectorError", "no connector is known for tasks of type 'unheard'")


SECRETIVE = """\
class Secretive(ModelTrainTask):
    def custom_config(self, sctx):
        return {**super().custom_config(sctx), "secrets": {"token": "FJ_NOT_SET"}}

secretive = Secretive(name="secretive", endpoint=model_train_task.endpoint)
secret_env = flyte.TaskEnvironment.from_task("secret_env", secretive)
"""


def test_a_secret_that_is_not_there_is_named_and_can_be_typed(book):
    book.run(SECRETIVE)
    run = RUN.replace("model_train_task", "secretive")
    error = book.fail(run)
    one_line(error, "ConnectorError", "secretive has no token", "FJ_NOT_SET is not set")
    assert "%flyte secret FJ_NOT_SET" in error.value
    book.run("%flyte secret FJ_NOT_SET", answers=["typed"])
    book.run("%flyte down secret_env")
    assert "File" in book.run(run).result
    assert "this session" in book.run("%flyte secret").shown


# -- the verb -----------------------------------------------------------------------------------


def test_connectors_are_listed(book):
    shown = book.run("%flyte connectors").shown
    assert "Model Training Connector" in shown
    assert "external_model_training" in shown
    assert "the notebook" in shown


def test_connectors_are_served_by_grpc_and_only_to_who_knows_the_token(book, service):
    import grpc
    from flyteidl2.connector import connector_pb2, service_pb2_grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    cell = book.run("%flyte connectors serve")
    assert "external_model_training" in cell.shown
    address = book.value("flyte_jupyter.session().connector_service.address")
    token = book.value("flyte_jupyter.session().connector_service.token")
    assert token not in cell.shown
    with grpc.insecure_channel(address) as channel:
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stub = service_pb2_grpc.ConnectorMetadataServiceStub(channel)
        request = connector_pb2.ListConnectorsRequest()
        with pytest.raises(grpc.RpcError) as refused:
            stub.ListConnectors(request)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        names = stub.ListConnectors(request, metadata=[("authorization", f"Bearer {token}")])
        assert "Model Training Connector" in [each.name for each in names.connectors]
    assert "stopped" in book.run("%flyte connectors stop").shown
    assert "None ran" in book.run("%flyte connectors stop").shown


def test_a_job_is_made_looked_at_and_deleted_by_grpc(book, service):
    import grpc
    from flyteidl2.connector import connector_pb2, service_pb2_grpc
    from flyteidl2.core.execution_pb2 import TaskExecution
    from flyteidl2.task.common_pb2 import Inputs

    book.run("%flyte connectors serve")
    address = book.value("flyte_jupyter.session().connector_service.address")
    token = book.value("flyte_jupyter.session().connector_service.token")
    known = [("authorization", f"Bearer {token}")]
    book.run(
        "from flyte_jupyter.driver.flyte_sdk.connector_tasks import template_of\nimport asyncio\n"
        "from flyte._internal.runtime.convert import convert_from_native_to_inputs\n"
        "template = template_of(model_train_task, '.').SerializeToString()\n"
        "given = await convert_from_native_to_inputs("
        "model_train_task.native_interface, epochs=4, dataset_uri='s3://y')\n"
        "inputs = given.proto_inputs.SerializeToString()"
    )
    service.seconds = 600
    with grpc.insecure_channel(address) as channel:
        stub = service_pb2_grpc.AsyncConnectorServiceStub(channel)
        create = connector_pb2.CreateTaskRequest(output_prefix="/tmp/x")
        create.template.ParseFromString(book.value("template"))
        create.inputs.CopyFrom(Inputs.FromString(book.value("inputs")))
        meta = stub.CreateTask(create, metadata=known).resource_meta
        assert [job.asked for job in service.jobs.values()] == [
            {"dataset_uri": "s3://y", "epochs": 4}
        ]
        category = connector_pb2.TaskCategory(name="external_model_training")
        look = connector_pb2.GetTaskRequest(task_category=category, resource_meta=meta)
        assert stub.GetTask(look, metadata=known).resource.phase == TaskExecution.RUNNING
        delete = connector_pb2.DeleteTaskRequest(task_category=category, resource_meta=meta)
        stub.DeleteTask(delete, metadata=known)
    assert not service.alive


def test_the_service_ends_with_a_killed_kernel(own):
    own.run("%flyte connectors serve")
    address = own.value("flyte_jupyter.session().connector_service.address")
    own.kill()
    assert leaks.until(lambda: not listens(address))


def test_a_port_that_is_taken_is_named(book):
    import grpc

    other = grpc.server(None)
    port = other.add_insecure_port("127.0.0.1:0")
    other.start()
    error = book.fail(f"%flyte connectors serve --port {port}")
    other.stop(0)
    assert error.name == "ConnectorError"
    assert f"port {port} is taken" in error.value


def listens(address: str) -> bool:
    import socket

    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    time.sleep(0.05)
    return True
