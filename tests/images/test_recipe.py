"""What of an image holds here; all that is used of Flyte's private fields is tried."""

from __future__ import annotations

import sys
from pathlib import Path

import flyte
import pytest

from flyte_jupyter.errors import ImageError
from flyte_jupyter.images import recipe
from tests.wheels import wheel

KERNEL = sys.version_info[:2]
# Made up: nothing answers below `.invalid`, and nobody may register it.
INDEX, OTHER = "https://one.invalid/simple", "https://other.invalid/simple"


def base(**options) -> flyte.Image:
    return flyte.Image.from_debian_base(**options)


def read(image) -> recipe.Recipe:
    return recipe.read(image, "env")


@pytest.mark.parametrize("image", [None, "auto", base(), base(install_flyte=False)])
def test_an_image_of_flytes_own_asks_for_nothing(image):
    assert read(image) == recipe.Recipe()


def test_packages_with_all_that_pip_is_told():
    image = base(name="training").with_pip_packages(
        "a>=1",
        "b[c]",
        index_url=INDEX,
        extra_index_urls=[OTHER],
        pre=True,
        extra_args="--no-binary :all:",
    )
    (layer,) = read(image).packages
    assert layer.origin == "image 'training'"
    assert layer.requirements == ("a>=1", "b[c]")
    assert layer.indexes == (INDEX, OTHER)
    assert layer.arguments == ("--pre", "--no-binary", ":all:")
    assert not read(image).not_honoured


def test_an_image_without_a_name_is_called_after_its_environment():
    assert read(base().with_pip_packages("a")).packages[0].origin == "the image of env"


def test_variables_are_honoured_and_flytes_own_are_not_taken():
    image = base(install_flyte=False).with_env_vars({"A": "1"}).with_env_vars({"B": "2"})
    assert read(image).env == {"A": "1", "B": "2"}


def test_a_plain_file_of_requirements_is_read(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text("# what is needed\na>=1  # or later\n\nb; python_version > '3'\n")
    (layer,) = read(base().with_requirements(file)).packages
    assert layer.requirements == ("a>=1", "b; python_version > '3'")
    assert layer.files == ()


def test_a_file_with_options_is_left_to_the_installer(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text(f"--index-url {INDEX}\na\n")
    (layer,) = read(base().with_requirements(file)).packages
    assert (layer.requirements, layer.files) == ((), (str(file),))


PROJECT = """\
[project]
name = "mine"
version = "1"
dependencies = ["a>=1", "b"]
"""


def test_the_dependencies_of_a_project(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(PROJECT)
    (tmp_path / "uv.lock").write_text("version = 1\n")
    image = base().with_uv_project(pyproject, extra_args="--no-dev")
    found = read(image)
    assert found.packages[0].requirements == ("a>=1", "b")
    assert found.packages[0].arguments == ()
    assert set(found.not_honoured) == {"uv_project.uvlock", "uv_project.extra_args"}


CHOICES = """\
[project.optional-dependencies]
ml = ["learn"]
Plots = ["plot"]
[dependency-groups]
test = ["check", {include-group = "base"}]
base = ["basis"]
"""


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ("--extra ml", ("learn",)),
        ("--extra=plots --group test", ("plot", "check", "basis")),
        ("--all-extras --all-groups", ("learn", "plot", "check", "basis", "basis")),
    ],
)
def test_optional_dependencies_that_are_chosen(tmp_path, options, chosen):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(PROJECT + CHOICES)
    found = read(base().with_uv_project(pyproject, extra_args=options))
    assert found.packages[0].requirements == ("a>=1", "b", *chosen)
    assert found.packages[0].arguments == ()
    assert not found.not_honoured


def test_an_extra_that_a_project_has_not_is_named(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(PROJECT)
    with pytest.raises(ImageError, match="it has no extra 'ml'"):
        read(base().with_uv_project(pyproject, extra_args="--extra ml"))


INDEXES = """\
[[tool.uv.index]]
url = "https://own.example/simple"
default = true
[[tool.uv.index]]
url = "https://more.example/simple"
[[tool.uv.index]]
url = "https://named.example/simple"
explicit = true
"""


def test_packages_are_looked_for_where_the_project_says(tmp_path):
    """On PyPI there may be somebody else's of the same name."""
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(PROJECT + INDEXES)
    (layer,) = read(base().with_uv_project(pyproject)).packages
    assert layer.indexes == ("https://own.example/simple", "https://more.example/simple")
    chosen = base().with_uv_project(pyproject, index_url=INDEX)
    assert read(chosen).packages[0].indexes[0] == INDEX


SOURCES = """\
[project]
name = "mine"
version = "1"
dependencies = ["here[x]>=1", "there", "code; python_version > '3'", "plain"]
[tool.uv.sources]
here = {path = "lib/here"}
There = {url = "https://host/there.whl"}
code = {git = "https://host/code", tag = "v1", subdirectory = "sub"}
"""


def test_dependencies_come_from_where_the_project_has_them(tmp_path):
    (tmp_path / "pyproject.toml").write_text(SOURCES)
    (layer,) = read(base().with_uv_project(tmp_path / "pyproject.toml")).packages
    assert layer.requirements == (
        f"here[x] @ {(tmp_path / 'lib/here').as_uri()}",
        "there @ https://host/there.whl",
        'code @ git+https://host/code@v1#subdirectory=sub ; python_version > "3"',
        "plain",
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tool.uv.sources]\na = {index = "private"}', "a comes from index, which uv alone knows"),
        ("[tool.uv.sources]\na = {workspace = true}", "a comes from workspace"),
        ('[tool.uv.sources]\na = [{url = "x"}]', "a has several sources"),
    ],
)
def test_what_only_uv_could_find_is_looked_for_nowhere_else(tmp_path, text, said):
    """Another index may have somebody else's package of the same name."""
    (tmp_path / "pyproject.toml").write_text(PROJECT + text)
    with pytest.raises(ImageError, match=said):
        read(base().with_uv_project(tmp_path / "pyproject.toml"))


def test_dependencies_that_are_made_when_it_is_built_need_the_project(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text('[project]\nname = "mine"\ndynamic = ["version", "dependencies"]\n')
    with pytest.raises(ImageError, match="install_project"):
        read(base().with_uv_project(pyproject))
    whole = base().with_uv_project(pyproject, project_install_mode="install_project")
    assert read(whole).packages[0].requirements == (str(tmp_path),)


def test_a_project_itself_is_another_when_its_files_change(tmp_path):
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(PROJECT)
    image = base().with_uv_project(pyproject, project_install_mode="install_project")
    before = read(image).packages[0]
    assert before.requirements == (str(tmp_path),)
    assert read(image).packages[0] == before
    for name in ("notes.ipynb", "result.csv", "mine.egg-info/top.toml", ".venv/a.py", "build/b.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert read(image).packages[0] == before, "it was taken for changed by what is not its own"
    (tmp_path / "mine.py").write_text("x = 1\n")
    assert read(image).packages[0].content != before.content


def test_a_folder_that_is_called_like_a_package_counts_for_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run.py").write_text("")
    (layer,) = read(base().with_pip_packages("wandb")).packages
    assert (layer.requirements, layer.content) == (("wandb",), "")


def test_a_file_of_requirements_is_another_when_what_it_includes_changes(tmp_path):
    file, more = tmp_path / "requirements.txt", tmp_path / "more.txt"
    file.write_text("-r more.txt\n")
    more.write_text("a\n")
    image = base().with_requirements(file)
    before = read(image).packages[0].content
    assert before == read(image).packages[0].content
    more.write_text("a>=1\n")
    assert read(image).packages[0].content != before


def test_variables_may_name_those_before_them(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    image = base().with_env_vars({"A": "x"}).with_env_vars({"PATH": "/opt/$A/bin:${PATH}"})
    assert read(image).env["PATH"] == "/opt/x/bin:/usr/bin"


def test_what_is_missing_of_a_layer_without_effect_stops_nothing():
    image = base().with_source_folder(Path("/no/such/folder"))
    assert set(read(image).not_honoured) == {"source"}


SCRIPT = """\
# /// script
# requires-python = ">=3.99"
# dependencies = ["a>=1", "b"]
# ///
"""


def test_the_dependencies_of_a_script(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    found = read(flyte.Image.from_uv_script(script, name="job"))
    assert found.packages[0].requirements == ("a>=1", "b")
    assert "3.99" in found.not_honoured["python_version"]
    assert set(found.not_honoured) == {"python_version"}


def test_wheels_of_a_folder(tmp_path):
    from flyte._image import PythonWheels

    wheel(tmp_path, "mine")
    image = base().clone(addl_layer=PythonWheels(wheel_dir=tmp_path, package_name="mine"))
    before = read(image).packages[0]
    assert before.requirements == ("mine",)
    assert before.arguments == ("--find-links", str(tmp_path))
    wheel(tmp_path, "mine", code="changed = True\n")
    assert read(image).packages[0].content != before.content


def test_a_wheel_is_named_wherever_the_notebook_goes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wheel(tmp_path, "mine")
    (layer,) = read(base().with_pip_packages("./mine-1.0-py3-none-any.whl[more]")).packages
    assert layer.requirements == (f"{tmp_path}/mine-1.0-py3-none-any.whl[more]",)
    assert layer.content


@pytest.mark.parametrize(
    ("image", "field", "said"),
    [
        (base().with_apt_packages("curl", "git"), "apt_packages", "curl, git"),
        (base().with_commands(["make"]), "commands", "machine of its own"),
        (base().with_workdir("/x"), "workdir", "notebook's folder"),
        (base().with_source_file(Path(__file__)), "source", "notebook's folder"),
        (base().with_dockerignore(Path(__file__)), "dockerignore", "nothing is copied"),
        (base().with_code_bundle(), "code_bundle", "notebook's folder"),
        (flyte.Image.from_base("ghcr.io/a/b:c"), "base_image", "ghcr.io/a/b:c"),
        ("ghcr.io/a/b:c", "base_image", "ghcr.io/a/b:c"),
        (base(flyte_version="2.0.0"), "base_image", "v2.0.0"),
        (flyte.Image.from_ref_name("mine"), "base_image", "mine"),
        (base(python_version=(3, 14)), "python_version", "3.14"),
        (base().with_pip_packages("a", secret_mounts="TOKEN"), "secrets", "nothing is mounted"),
    ],
)
def test_what_a_process_cannot_have_is_named(image, field, said):
    found = read(image).not_honoured
    assert set(found) == {field}
    assert said in found[field]


def test_a_dockerfile_is_named(tmp_path):
    file = tmp_path / "Dockerfile"
    file.write_text("FROM scratch\n")
    image = flyte.Image.from_dockerfile(file, registry="r", name="n")
    assert set(read(image).not_honoured) == {"dockerfile"}


def test_poetry_and_pixi_are_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "poetry.lock").write_text("")
    (tmp_path / "pixi.toml").write_text("")
    poetry = base().with_poetry_project(tmp_path / "pyproject.toml", tmp_path / "poetry.lock")
    pixi = base().with_pixi_project(tmp_path / "pixi.toml")
    assert set(read(poetry).not_honoured) == {"poetry_project"}
    assert set(read(pixi).not_honoured) == {"pixi_project"}


@pytest.mark.parametrize(
    "image",
    [
        base(name="x").with_requirements(Path("/no/such/requirements.txt")),
        base(name="x").with_uv_project(Path("/no/such/pyproject.toml")),
        base(name="x").with_pip_packages("a", extra_args="'unfinished"),
    ],
)
def test_what_cannot_be_read_is_said_in_one_line(image):
    with pytest.raises(ImageError, match="image 'x' cannot be read") as caught:
        read(image)
    assert "\n" not in str(caught.value)


def test_every_kind_of_layer_is_known():
    """A new SDK's layer is to be honoured, or named by a reason of its own."""
    from flyte import _image

    def below(kind: type) -> set[str]:
        return {kind.__name__} | {name for each in kind.__subclasses__() for name in below(each)}

    assert below(_image.Layer) - {"Layer"} == set(recipe._READERS)
