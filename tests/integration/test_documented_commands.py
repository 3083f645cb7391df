"""Every command of README and docs/ can be typed as it stands: its program, options, keys and files exist.

Bash reads the code blocks and records the commands. Programs of this repository then read their arguments, and
stop before they work; Hydra composes the configurations of those that it configures.
"""

import argparse
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
import tomllib
from braceexpand import braceexpand
from hydra import compose, initialize_config_dir

from nemo_birq import cli
from nemo_birq.command_line.configurations import config_folder
from nemo_birq.command_line.hydra_command import HydraCommand
from nemo_birq.command_line.override_hints import expanded_by_shell
from tests.helpers.documented import PAGES, blocks, commands, is_shell
from tests.helpers.overrides import PARSER
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.integration
FOREIGN = {"git", "hf", "mfa", "ls", "mkdir", "tar", "squeue", "sha256sum", "kubectl", "ray"}
"""Programs of others, whose arguments are not read here. ``lhotse`` is installed, and its arguments are."""
LAUNCHERS = {"sbatch", "srun", "torchrun", "docker", "env"}
"""Programs of others whose arguments may end with a command of ours."""
FOREIGN_SCRIPTS = {"oomptimizer.py"}
"""Scripts of NeMo's repository."""
OURS = re.compile(r"(?:tarred_manifests|conf|scripts|benchmarks|tests|docs)/[^\s,'\"\]=]+")
"""A file of this repository in an argument."""
COMPOSED: set[tuple] = set()
"""Folder, name, and kinds of overrides of the configurations that could be composed."""


class ArgumentsRead(BaseException):
    """Ends a program that has read its arguments; no error handler catches it."""


@pytest.fixture
def stop_after_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every program of this process stop when its arguments are read and valid."""
    parse_args, invoke = argparse.ArgumentParser.parse_args, click.Command.invoke

    def parse_and_stop(self, args=None, namespace=None):
        parse_args(self, args, namespace)
        raise ArgumentsRead

    def invoke_groups_only(self, ctx):
        if isinstance(self, click.Group):
            return invoke(self, ctx)
        raise ArgumentsRead

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(click.Command, "invoke", invoke_groups_only)
    monkeypatch.setattr(HydraCommand, "invoke", compose_and_stop)
    monkeypatch.chdir(ROOT)


def compose_and_stop(command: HydraCommand, ctx: click.Context) -> None:
    """Composes a configuration, as Hydra would, and stops."""
    assert not expanded_by_shell(ctx.args)
    options = {argument.partition("=")[0]: argument.partition("=")[2] for argument in ctx.args if argument.startswith("-")}
    assert options.keys() <= {"--config-name", "--config-dir", "--cfg", "--resolve"}, options
    overrides = [argument for argument in ctx.args if not argument.startswith("-") and argument != "job"]
    if "--config-dir" not in options:  # a folder of the user's own
        folder, name = config_folder() / command.folder, options.get("--config-name", command.config_name)
        with initialize_config_dir(str(folder), version_base=None):
            # The values of keys have no part in whether a configuration can be composed; those of groups have.
            kinds = [
                one.input_line if (folder / one.key_or_group).is_dir() else f"{one.type} {one.key_or_group}"
                for one in PARSER.parse_overrides(overrides)
            ]
            known = folder, name, *sorted(kinds)
            if known not in COMPOSED:
                compose(name, overrides)
                COMPOSED.add(known)
    raise ArgumentsRead


def read_arguments(start: Callable[[], object], what: str) -> None:
    """Starts a program, which must read its arguments without an error."""
    try:
        start()
    except ArgumentsRead:
        return
    except SystemExit as end:
        assert end.code in (0, None), f"{what}: {end.code}"  # --help, --version
    else:
        raise AssertionError(f"{what} read no arguments")


def run_python(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first, *rest = arguments
    if first == "-c":
        compile(rest[0], "-c", "exec")
        return
    if first == "-m":
        name, *rest = rest
        if name in ("pytest", "venv", "pip"):
            return
        path = ROOT / f"{name.replace('.', '/')}.py"
    else:
        if first in FOREIGN_SCRIPTS:
            return
        path = ROOT / first
    assert path.is_file(), f"there is no {path}"
    if not re.search(r"argparse|click|run_script|arguments\(\)", path.read_text()):
        assert not rest, f"{first} takes no arguments"
        return
    monkeypatch.setattr(sys, "argv", [str(path), *rest])
    monkeypatch.syspath_prepend(str(path.parent))
    if first == "-m":
        read_arguments(lambda: runpy.run_module(name, run_name="__main__", alter_sys=True), name)
    else:
        read_arguments(lambda: runpy.run_path(str(path), run_name="__main__"), first)


def run_make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        found = re.search(rf"^{name} \??:?= " if equals else rf"^{name}:", makefile, re.MULTILINE)
        assert found, f"the Makefile has no {name}"


def run_pip(arguments: list[str]) -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    for name in re.findall(r"(?:nemo_birq|\.)\[(.*?)\]", " ".join(arguments)):
        assert set(name.split(",")) <= extras, f"there is no extra {name}"


def check_files(arguments: list[str]) -> None:
    """Checks that files of this repository exist; those that a command writes have an existing folder."""
    for argument in arguments:
        for name in OURS.findall(argument):
            for path in braceexpand(name.replace("_OP_", "{").replace("_CL_", "}")):
                wanted = ROOT / path
                assert wanted.exists() or (path.startswith("docs/") and wanted.parent.is_dir()), f"there is no {path}"


def check(command: list[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    program, *arguments = command
    if program == "sbatch" and "--wrap" in arguments:
        for inner in commands([arguments[arguments.index("--wrap") + 1]], folder):
            check(inner, monkeypatch, folder)
    elif program in LAUNCHERS:
        ours = [number for number, argument in enumerate(arguments) if argument in ("python", "birq")]
        if ours:
            check(arguments[ours[0] :], monkeypatch, folder)
    elif program in ("python", "python3", ".venv/bin/python"):
        run_python(arguments, monkeypatch)
    elif program == "birq":
        read_arguments(lambda: cli.main(arguments, prog_name="birq"), "birq")
    elif program == "lhotse":
        from lhotse.bin.modes.cli_base import cli as lhotse

        read_arguments(lambda: lhotse(arguments), "lhotse")
    elif program == "make":
        run_make(arguments)
    elif program.endswith("pip"):
        run_pip(arguments)
    else:
        assert program in FOREIGN, f"{program} is no program that a page may name"
    if program not in FOREIGN:
        check_files(arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_can_be_typed_as_they_stand(page: Path, stop_after_arguments, monkeypatch, tmp_path, capsys):
    shown = [block for block in blocks(page) if is_shell(block)]
    wrong = []
    for command in commands([block.text for block in shown], tmp_path):
        try:
            check(command, monkeypatch, tmp_path)
        except (Exception, SystemExit) as error:
            wrong.append(f"{' '.join(command)}\n    {type(error).__name__}: {error} {capsys.readouterr().err}")
    assert not wrong, "\n".join([f"{page.name}:", *wrong])


def test_pages_that_code_and_messages_name_exist():
    named = {
        (str(path.relative_to(ROOT)), page)
        for folder in ("nemo_birq", "conf", "scripts", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".jinja")
        for page in re.findall(r"\bdocs/[\w/]+\.md\b", path.read_text(encoding="utf-8"))
    }
    assert not {(where, page) for where, page in named if not (ROOT / page).is_file()}
