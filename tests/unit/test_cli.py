"""The command line: birq and its subcommands, spellings, errors, help, and the folder of the configurations."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

import click
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import nemo_birq
from nemo_birq import cli, loading, model
from nemo_birq.command_line import configurations, hydra_command, options
from nemo_birq.command_line.command import Option, command, command_text, run_script
from nemo_birq.config import BiRQConfig
from nemo_birq.evaluation.abx.items import UNITS
from nemo_birq.evaluation.probing.linear import Training
from nemo_birq.extraction.features import DTYPES, FORMATS
from nemo_birq.extraction.labels import KINDS
from nemo_birq.scoring.normalization import STEPS
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit
HYDRA = ("pretrain", "untrained-model", "check-labels", "finetune")
SCRIPTS = {"export": "export_encoder.py", "pretrain": "speech_pre_training.py", "finetune": "speech_to_text_finetune.py"}
LIGHT = """
import sys
from nemo_birq.cli import main
try:
    main({arguments!r}, prog_name="birq")
except SystemExit as end:
    sys.exit(end.code or ", ".join({{"torch", "nemo", "lightning"}} & sys.modules.keys()) or 0)
"""


def subcommand(name: str) -> click.Command:
    return cli.main.get_command(click.Context(cli.main), name)


def run(*arguments: str) -> subprocess.CompletedProcess:
    """Runs birq in a separate process, which fails if it has imported NeMo or torch."""
    code = LIGHT.format(arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


# --- birq -------------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_and_imports_neither_nemo_nor_torch():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for name, (_, text) in cli.COMMANDS.items():
        assert f"  {name} " in done.stdout and text.split()[0] in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_every_command_is_light(name):
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Usage: birq {name} " in done.stdout and f"birq {name} " in done.stdout.split("\n", 1)[1]


def test_ctrl_c_ends_every_command_with_its_exit_code(monkeypatch, capsys):
    """This holds while a command imports its libraries, and in the scripts, too."""

    @command("interrupted")
    def interrupted() -> None:
        """Is interrupted."""
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(sys, "argv", ["sample.py"])
    before = signal.getsignal(signal.SIGINT)
    try:
        for call in (partial(run_script, interrupted, "sample.py"), partial(interrupted_import, monkeypatch)):
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
            with pytest.raises(SystemExit) as end:
                call()
            assert end.value.code == 130 and "Interrupted" in capsys.readouterr().err
    finally:
        signal.signal(signal.SIGINT, before)


def interrupted_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "import_module", lambda name: os.kill(os.getpid(), signal.SIGINT))
    cli.main(["pretrain"], prog_name="birq")


def test_every_command_has_its_name_and_a_script():
    scripts = {path.name for path in (ROOT / "scripts").glob("*.py")}
    for name, (target, _) in cli.COMMANDS.items():
        found = subcommand(name)
        assert found.name == name and found.callback.__doc__.split("\n")[0].endswith(".")
        script = SCRIPTS.get(name, f"{name.replace('-', '_')}.py")
        assert script in scripts and target.partition(":")[2] in (ROOT / "scripts" / script).read_text()


def test_unknown_command_is_refused():
    done = run("no-such-command")
    assert done.returncode == 2 and "No such command 'no-such-command'" in done.stderr


def test_the_package_exports_its_python_interface_lazily():
    code = "import sys, nemo_birq; assert not {'torch', 'nemo'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert nemo_birq.load_model is loading.load_model and nemo_birq.load_encoder is loading.load_encoder
    assert nemo_birq.BiRQModel is model.BiRQModel


# --- arguments --------------------------------------------------------------------------------------------------------


@command("sample")
@options.model_argument()
@options.data_argument()
@options.tars_option()
@options.several_option("--numbers", "Numbers.", type=float)
@options.hours_option()
def sample(**given):
    """Prints what it was given."""
    click.echo(json.dumps(given, default=str))


def parse(*arguments: str) -> dict:
    with sample.make_context("sample", list(arguments)) as ctx:
        return ctx.params


def test_earlier_spellings_are_accepted_and_not_shown():
    expected = parse("m.nemo", "d.json", "--tars", "t.tar")
    assert (expected["model"], expected["data"], expected["tars"]) == (Path("m.nemo"), "d.json", "t.tar")
    assert parse("m.nemo", "--manifest", "d.json", "--tarred-audio", "t.tar") == expected
    assert parse("--manifest=d.json", "--tarred-audio=t.tar", "m.nemo") == expected
    with sample.make_context("sample", ["m.nemo", "d.json"]) as ctx:
        shown = sample.get_help(ctx)
    assert "--manifest" not in shown and "--tarred-audio" not in shown and "--tars" in shown
    for given, message in ((["--manifest"], "'--manifest' requires an argument"), ([], "Missing argument 'DATA'")):
        with pytest.raises(click.UsageError) as refused:
            parse("m.nemo", *given)
        assert message in refused.value.format_message()


@pytest.mark.parametrize(
    "given", [["--numbers", "0", "-1", ".5"], ["--numbers=0", "--numbers", "-1", "-.5", "--tars", "x"], ["--numbers", "-1"]]
)
def test_several_values_may_follow_one_option(given):
    numbers = [float(value.removeprefix("--numbers=")) for value in given if re.search(r"\d", value)]
    assert parse("m.nemo", "d.json", *given)["numbers"] == tuple(numbers)
    assert parse("m.nemo", "d.json", *given, "--hours", "2")["hours"] == 2.0


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "many"])
def test_numbers_that_must_be_above_0(hours):
    with pytest.raises(click.BadParameter) as refused:
        parse("m.nemo", "d.json", "--hours", hours)
    assert "'--hours'" in refused.value.format_message()


def test_shared_parameters_have_one_spelling():
    """No command has another option for a parameter in nemo_birq/cli.py."""
    banned = {"--manifest", "--tarred-audio", "--output", "--outdir", "--num-workers", "--random-seed", "--alignment"}
    for name in set(cli.COMMANDS) - set(HYDRA):
        found = subcommand(name)
        for one in found.commands.values() if isinstance(found, click.Group) else [found]:
            spelled = {spelling for param in one.params for spelling in param.opts}
            assert not spelled & banned, name


@pytest.mark.parametrize("name", ["extract-features", "extract-labels", "cluster-labels"])
def test_commands_over_a_corpus_read_it_in_the_same_way(name):
    opts = {opt for param in subcommand(name).params for opt in param.opts}
    assert {"model", "data", "--tars", "--out", "--workers", "--batch-seconds"} <= opts


@pytest.mark.parametrize("name", ["label-quality", "label-quality-over-training", "show-utterance", "cluster-labels"])
def test_command_lines_with_manifest_still_work(name):
    needed = {"--alignments": "a.ctm", "--utterance": "u", "--layer": "1", "--clusters": "9", "--out": "o"}
    found = subcommand(name)
    required = [part for param in found.params if param.required and isinstance(param, Option)
                for part in (param.opts[0], needed[param.opts[0]])]  # fmt: skip
    with found.make_context(name, ["m.nemo", "--manifest", "d.json", *required]) as ctx:
        assert (str(ctx.params["model"]), str(ctx.params["data"])) == ("m.nemo", "d.json")


def test_choices_and_defaults_are_those_of_the_code():
    """The commands repeat them, because a help text must import neither torch nor NeMo."""

    def param(name: str, option: str) -> click.Parameter:
        return next(param for param in subcommand(name).params if option in param.opts)

    assert set(param("extract-features", "--dtype").type.choices) == set(DTYPES)
    assert set(param("extract-features", "--format").type.choices) == set(FORMATS)
    assert set(param("extract-labels", "--labels").type.choices) == set(KINDS)
    assert set(param("score", "--normalization").type.choices) == set(STEPS)
    assert set(param("compare-encoders", "--abx").type.choices) == set(UNITS)
    for name in ("probe", "compare-encoders"):
        assert param(name, "--epochs").default == Training.epochs
        assert param(name, "--learning-rate").default == Training.learning_rate


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("a value"), FileNotFoundError("no file"), OSError("a disk"), ImportError("x")])
def test_errors_are_one_line_with_exit_code_1(error, monkeypatch):
    def fail(**given):
        raise error

    monkeypatch.setattr(sample, "callback", fail)
    with pytest.raises(SystemExit) as end:
        sample(["m.nemo", "d.json"], prog_name="birq sample")
    assert end.value.code == f"birq sample: {error}"
    monkeypatch.setattr(sys, "argv", ["sample.py", "m.nemo", "d.json"])
    with pytest.raises(SystemExit, match=f"^sample.py: {error}$"):
        run_script(sample, "/somewhere/sample.py")


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sample, "callback", lambda **given: {}["key"])
    with pytest.raises(KeyError):
        sample(["m.nemo", "d.json"], prog_name="birq sample")


def test_a_script_returns_after_success(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sample.py", "m.nemo", "d.json"])
    run_script(sample, "/somewhere/sample.py")
    assert json.loads(capsys.readouterr().out)["data"] == "d.json"
    monkeypatch.setattr(sys, "argv", ["sample.py", "--no-such-option"])
    with pytest.raises(SystemExit) as end:
        run_script(sample, "/somewhere/sample.py")
    assert end.value.code == 2 and "No such option" in capsys.readouterr().err


def test_the_command_in_results_can_be_given_to_a_shell(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/birq", "probe", "a b.nemo"])
    assert command_text() == "birq probe 'a b.nemo'"
    monkeypatch.setattr(sys, "argv", ["scripts/probe.py", "m.nemo"])
    assert command_text() == "python scripts/probe.py m.nemo"


# --- configurations ---------------------------------------------------------------------------------------------------


def test_configurations_are_found_in_a_checkout_and_in_a_wheel(tmp_path, monkeypatch):
    assert configurations.config_folder() == ROOT / "conf"
    package = tmp_path / "nemo_birq"
    monkeypatch.setattr(configurations, "PACKAGE", package)
    with pytest.raises(FileNotFoundError, match="reinstall nemo_birq"):
        configurations.config_folder()
    for folder in (tmp_path / "conf", package / "conf"):  # another conf beside the package is not used
        folder.mkdir(parents=True)
        (folder / "base.yaml").touch()
        assert configurations.config_folder() == folder


def test_help_of_pretraining_lists_configurations_presets_and_keys():
    done = run("pretrain", "--help")
    shown = done.stdout
    for path in (ROOT / "conf").glob("*.yaml"):
        assert (f"  {path.stem} " in shown) == (path.stem != "base")
    for preset in (ROOT / "conf" / "data").glob("*.yaml"):
        assert f"  +data={preset.stem} " in shown
    assert "+experiments=" not in shown and "finetune=" not in shown
    assert len(shown.splitlines()) < 110
    assert run("pretrain", "--config-name=birq_conformer_tiny", "-h").stdout == shown
    script = subprocess.run(
        [sys.executable, "scripts/speech_pre_training.py", "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert script.stdout.replace("speech_pre_training.py", "birq pretrain", 1) == shown


def keys_of(config: object, prefix: str = "model.birq") -> dict[str, object]:
    """Returns all keys of a dataclass and of the dataclasses in it, with their values."""
    found = {}
    for field in fields(config):
        value = getattr(config, field.name)
        found |= keys_of(value, f"{prefix}.{field.name}") if is_dataclass(value) else {f"{prefix}.{field.name}": value}
    return found


def test_help_lists_every_key_of_birq_with_its_default():
    shown, group = {}, ""
    for line in configurations.birq_keys():
        if not line.startswith(" "):
            group = line.partition(":")[0]
            continue
        key, _, value = line.strip().split("  ")[0].partition("=")
        shown[f"{group}.{key}"] = value
    assert shown.keys() == keys_of(BiRQConfig()).keys()
    for key, value in keys_of(BiRQConfig()).items():
        assert OmegaConf.to_container(OmegaConf.from_dotlist([f"x={shown[key]}"]))["x"] == value, key


@pytest.mark.parametrize("name", HYDRA)
def test_keys_in_the_help_exist(name):
    """Hydra refuses to override a key that is not there."""
    found = subcommand(name)
    config = "ctc_bpe" if name == "finetune" else found.config_name
    with initialize_config_dir(str(ROOT / "conf" / found.folder), version_base=None):
        compose(config, [f"{key}=0" for key in found.keys])


def test_hydra_gets_the_arguments_and_lightning_the_whole_command(monkeypatch, tmp_path, capsys):
    """Lightning starts the processes of further GPUs with sys.argv, where the name of the subcommand must not be missing."""
    seen = {}

    def train(cfg):
        """Trains."""
        seen.update(name=cfg.name, argv=list(sys.argv))

    made = hydra_command.hydra_command("train", config_name="birq_conformer_tiny", keys={})(train)
    argv = ["/usr/bin/birq", "train", "name=mine"]
    monkeypatch.setattr(sys, "argv", argv)
    made(argv[2:], prog_name="birq train", standalone_mode=False)
    assert seen == {"name": "mine", "argv": argv} and sys.argv == argv
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("name: other\n")
    monkeypatch.chdir(tmp_path)
    for arguments in (["--config-path=own"], ["--config-path", "own"], ["-cp", "own"]):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/birq", "train"])
        made([*arguments, "--config-name=mine"], prog_name="birq train", standalone_mode=False)
        assert seen["name"] == "other"
