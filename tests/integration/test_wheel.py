"""The wheel has everything that a command needs, and declares everything that it imports."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

import nemo_birq
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.integration
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "nemo_birq", "conf")
IMPORT_NAMES = {
    "flashlight-text": "flashlight",
    "pillow": "PIL",
    "hydra-core": "hydra",
    "nemo_toolkit": "nemo",
    "protobuf": "google",
    "PyYAML": "yaml",
    "scikit-learn": "sklearn",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of this checkout, built from a copy, because a folder build/ of an earlier version would be included."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*command, "-w", str(folder), str(folder / "source")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


def read(wheel: Path, pattern: str) -> str:
    """Returns the text of the only file of the wheel whose name matches."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if re.fullmatch(pattern, name))
        return archive.read(name).decode()


def test_wheel_has_the_package_its_templates_and_the_configurations(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "nemo_birq").rglob("*")
               if path.suffix in (".py", ".jinja") or path.name == "py.typed"}  # fmt: skip
    configurations = {f"nemo_birq/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")
                      if path.parent.name != "experiments"}  # fmt: skip
    assert "nemo_birq/py.typed" in package and "nemo_birq/conf/base.yaml" in configurations
    assert names == package | configurations


def test_metadata(wheel):
    metadata = read(wheel, r".*\.dist-info/METADATA")
    assert f"\nVersion: {nemo_birq.__version__}\n" in metadata and "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "birq = nemo_birq.cli:main" in read(wheel, r".*\.dist-info/entry_points\.txt")
    assert "Apache License" in read(wheel, r".*\.dist-info/licenses/LICENSE")


def test_installed_package_finds_its_configurations(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    done = subprocess.run(
        [sys.executable, "-m", "nemo_birq.cli", "pretrain", "--help"],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert f"Configurations in {tmp_path}/site/nemo_birq/conf:" in done.stdout, done.stderr
    assert "birq_conformer_tiny" in done.stdout and "labels" in done.stdout


OF_FSSPEC = {"s3fs", "gcsfs", "adlfs"}
"""File systems that fsspec imports by the protocol of a URL."""
OF_NEMO = {"wandb"}
"""Packages that come with nemo_toolkit[asr] and are used only if one of NeMo's loggers is."""


def test_everything_that_is_imported_is_declared():
    declared = [*PROJECT["dependencies"], *(name for extra in PROJECT["optional-dependencies"].values() for name in extra)]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in declared} - OF_FSSPEC
    imported = set()
    for path in (ROOT / "nemo_birq").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    assert imported - sys.stdlib_module_names - OF_NEMO - {"nemo_birq"} == {IMPORT_NAMES.get(name, name) for name in names}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-test.txt"])
def test_pinned_versions_are_within_the_declared_ranges(name):
    from packaging.requirements import Requirement

    declared = {(found := Requirement(text)).name.lower(): found.specifier for text in PROJECT["dependencies"]}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith(("#", "-r")):
            pinned = Requirement(line)
            (version,) = (specifier.version for specifier in pinned.specifier)
            assert version in declared.get(pinned.name.lower(), pinned.specifier), line
