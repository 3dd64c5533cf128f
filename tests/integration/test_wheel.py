"""What is installed is what was written: a built wheel, its types, and the editable install."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "snapshot", "cache", "handlers", "deploy")
CONSUMER = """\
from pathlib import Path

from glowplug import __version__
from glowplug.deploy.template import Template, load
from glowplug.runtime.definition import spec_of
from glowplug.runtime.spec import FunctionSpec


def revision(definition: dict[str, object]) -> str:
    return spec_of(definition).revision


template: Template = load(Path("template.yaml"))
version: str = __version__
"""
WITHOUT_TORCH = """\
[mypy]
[mypy-torch.*]
follow_imports = skip
"""
"""Nothing that the consumer names has a type of torch's, which take ten seconds to read."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Built:
    """The two files of a release."""

    wheel: Path
    sdist: Path


@dataclass(frozen=True)
class Venv:
    """A fresh environment that also sees the libraries of the one that runs the tests, but not its glowplug."""

    directory: Path

    @property
    def python(self) -> str:
        return str(self.directory / "bin" / "python")

    @property
    def packages(self) -> Path:
        [found] = self.directory.glob("lib/python*/site-packages")
        return found

    def pip(self, *arguments: str) -> None:
        run(sys.executable, "-m", "pip", "--python", self.python, "install", "--no-deps", "--quiet", *arguments)


def run(*command: str, cwd: Path | None = None) -> str:
    ran = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def fresh(directory: Path) -> Venv:
    run(sys.executable, "-m", "venv", "--without-pip", str(directory))
    venv = Venv(directory)
    # --system-site-packages shows the base interpreter's packages, not those of the venv that runs the tests. Python
    # does not read .pth files of a directory that a .pth file added, so the checkout's own stays out of sight.
    libraries = [path for path in sys.path if path.endswith("-packages")]  # one more where that venv borrows others'
    (venv.packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    return venv


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("dist")
    # The wheel is built from the sdist: a file that the sdist lacks is missing from the wheel, too.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT))
    [wheel], [sdist] = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Venv:
    venv = fresh(tmp_path_factory.mktemp("installed") / "venv")
    venv.pip(str(built.wheel))
    return venv


def sources() -> dict[str, Path]:
    """Return the files that are to be shipped, by their names in the wheel."""
    package = ROOT / "src" / "glowplug"
    files = {f"glowplug/{name}": package / name for name in ("__init__.py", "py.typed")}
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                files[f"glowplug/{path.relative_to(ROOT).as_posix()}"] = path
    return files


def test_the_wheel_holds_what_is_on_disk_byte_for_byte(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert {name: path.read_bytes() for name, path in sources().items()} == held


def test_the_sdist_holds_every_file_once(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert len(names) == len(set(names))
    assert {path.relative_to(ROOT).as_posix() for path in sources().values()} <= set(names)
    assert [] == [name for name in names if name.startswith(tuple(f"src/glowplug/{folder}/" for folder in FOLDERS))]
    assert [] == [name for name in names if name.startswith(("var/", ".venv/", ".git/"))]


def test_the_wheel_is_imported_from_where_it_is_installed(installed: Venv, tmp_path: Path) -> None:
    program = (
        "import glowplug.runtime.spec, glowplug.deploy.translate, glowplug.snapshot, glowplug.cache; "
        "print(glowplug.runtime.spec.__file__, glowplug.deploy.translate.__file__)"
    )
    for file in run(installed.python, "-c", program, cwd=tmp_path).split():
        assert Path(file).is_relative_to(installed.packages)


def test_the_installed_wheel_wins_over_a_checkout_called_glowplug(installed: Venv, tmp_path: Path) -> None:
    (tmp_path / "glowplug" / "runtime").mkdir(parents=True)  # as seen from the parent of a checkout
    file = run(installed.python, "-c", "import glowplug.runtime; print(glowplug.runtime.__file__)", cwd=tmp_path)
    assert Path(file.strip()).is_relative_to(installed.packages)


def test_the_command_is_installed(installed: Venv, tmp_path: Path) -> None:
    out = run(str(installed.directory / "bin" / "glowplug"), "--help", cwd=tmp_path)
    assert "deploy" in out


def test_a_consumer_of_the_installed_wheel_type_checks_strictly(installed: Venv, tmp_path: Path) -> None:
    (tmp_path / "consumer.py").write_text(CONSUMER)
    (tmp_path / "mypy.ini").write_text(WITHOUT_TORCH)
    mypy = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={installed.python}"]
    run(*mypy, f"--cache-dir={tmp_path / 'cache'}", "consumer.py", cwd=tmp_path)
    (tmp_path / "consumer.py").write_text(CONSUMER + "wrong: int = revision({})\n")
    ran = subprocess.run([*mypy, f"--cache-dir={tmp_path / 'cache'}", "consumer.py"], cwd=tmp_path, capture_output=True,
                         text=True, check=False)  # fmt: skip
    assert 'Incompatible types in assignment (expression has type "str", variable has type "int")' in ran.stdout


def test_an_editable_install_is_one_line_in_one_pth_file(tmp_path: Path) -> None:
    venv = fresh(tmp_path / "venv")
    venv.pip("--no-build-isolation", "--editable", str(ROOT))
    added = [
        path for path in venv.packages.glob("*.pth") if path.name not in ("libraries.pth", "distutils-precedence.pth")
    ]
    assert [f"{ROOT / 'src'}"] == [path.read_text().strip() for path in added]
    assert not (venv.packages / "glowplug").exists()
    file = run(venv.python, "-c", "import glowplug.runtime; print(glowplug.runtime.__file__)", cwd=tmp_path)
    assert (ROOT / "src" / "glowplug" / "runtime" / "__init__.py") == Path(file.strip())
