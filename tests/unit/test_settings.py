"""Each wrong value of a setting is refused by name before a folder is made, and each value at the edge of a range is not."""

import re
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from nemo_birq import cli
from nemo_birq.config_checks import check_data_named, check_run_keys
from nemo_birq.finetuning.settings import check_finetuning_keys
from nemo_birq.utils.settings import shown
from tests.helpers.overrides import composed, overridden
from tests.helpers.paths import CORPUS, ROOT
from tests.helpers.setting_values import BAD_FINETUNING, BAD_PRETRAINING, GOOD_FINETUNING, GOOD_PRETRAINING

pytestmark = pytest.mark.unit

PARSER = OverridesParser.create()


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


@pytest.fixture
def nothing_written(tmp_path, monkeypatch):
    """Lets relative folders begin in an empty one, which must stay empty."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def check_all(cfg: DictConfig) -> None:
    """Runs the checks of ``birq check-labels``, which has all keys of ``birq pretrain``."""
    check_run_keys(cfg, "minutes", "picture")


def refused_by(check: Callable[[DictConfig], None], cfg: DictConfig, overrides: str) -> None:
    """Checks that the message is one line and names key and value of the first override."""
    with overridden(cfg, *overrides.split(" ")), pytest.raises(ValueError) as refused:
        check(cfg)
    override, message = PARSER.parse_override(overrides.split(" ")[0]), str(refused.value)
    key, value = override.key_or_group, override.value()
    assert "\n" not in message
    assert re.search(rf"(^|\W){re.escape(key)}(={re.escape(shown(value))}(\W|$)| is )", message), message


@pytest.mark.parametrize("overrides", lines(BAD_PRETRAINING))
def test_a_wrong_value_of_pretraining_is_refused_by_name(overrides, nothing_written):
    refused_by(check_all, composed("", "birq_conformer_tiny", resolve=True), overrides)


@pytest.mark.parametrize(
    "overrides",
    ["name=a/b", "enhanced_start_step=-1", "model=5", "model.birq=5", "model.birq.quantizer=null", "model.encoder=5",
     "model.encoder.d_model=???", "model.encoder.n_heads=3", "model.preprocessor.features=0", "seed=-1", "name=${nowhere}"],
)  # fmt: skip
def test_a_wrong_value_that_others_are_taken_from_is_refused_by_name(overrides, nothing_written):
    refused_by(check_run_keys, composed("", "birq_conformer_tiny"), overrides)


@pytest.mark.parametrize(
    ("name", "overrides"), [(name, line) for name, text in BAD_FINETUNING.items() for line in lines(text)]
)
def test_a_wrong_value_of_finetuning_is_refused_by_name(name, overrides, nothing_written):
    refused_by(check_finetuning_keys, composed("finetune", name, resolve=True), overrides)


@pytest.mark.parametrize("overrides", lines(GOOD_PRETRAINING))
def test_a_value_at_the_edge_of_pretraining_passes(overrides, nothing_written):
    with overridden(composed("", "birq_conformer_tiny"), *overrides.split(" ")) as cfg:
        check_run_keys(cfg)


@pytest.mark.parametrize("overrides", lines(GOOD_FINETUNING))
def test_a_value_at_the_edge_of_finetuning_passes(overrides, nothing_written):
    with overridden(composed("finetune", "ctc_char"), *overrides.split(" ")) as cfg:
        check_finetuning_keys(cfg)


@pytest.mark.parametrize("path", sorted((ROOT / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_of_pretraining_pass(path):
    missing = {"base": "enhanced_start_step", "birq_continue": "model.encoder.n_layers"}.get(path.stem)
    if missing is not None:  # a base for others, and one that is completed from a file
        with pytest.raises(ValueError, match=f"{missing} is not set: add {missing}=VALUE"):
            check_run_keys(composed("", path.stem))
        return
    check_run_keys(composed("", path.stem))


@pytest.mark.parametrize(
    "preset",
    [
        "objective=paper",
        "objective=tracked",
        "objective=best_rq_refined",
        "objective=refined_tracked",
        "+data=ami",
        "+data=librispeech",
        "+data=yodas",
    ],
)
def test_presets_pass(preset):
    check_run_keys(composed("", "birq_conformer_large", preset))


def test_the_preset_of_noise_needs_a_manifest():
    with pytest.raises(ValueError, match=r"model\.train_ds\.noise_manifest is not set: add "):
        check_run_keys(composed("", "birq_conformer_large", "+noise=nest"))
    check_run_keys(composed("", "birq_conformer_large", "+noise=nest", "model.train_ds.noise_manifest=noise.json"))


@pytest.mark.parametrize("name", ["ctc_char", "ctc_bpe", "rnnt_bpe", "hybrid_rnnt_ctc_bpe"])
def test_shipped_configurations_of_finetuning_pass(name):
    check_finetuning_keys(composed("finetune", name))


def test_a_group_that_is_left_out_has_its_defaults():
    left_out = ["~model.birq.watch", "~model.card", "~model.optim.sched", "~exp_manager.wandb_logger_kwargs"]
    with overridden(composed("", "birq_conformer_tiny"), *left_out) as cfg:
        check_run_keys(cfg)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "model.train_ds.manifest_filepath is not set: name the data"),
        (["model.train_ds.manifest_filepath=a.json"], "model.validation_ds.manifest_filepath is not set"),
        (["model.train_ds.manifest_filepath=null"], "model.train_ds.manifest_filepath=null is not allowed"),
        (["model.train_ds.manifest_filepath=null", "model.train_ds.input_cfg=a.yaml", "model.validation_ds=null"], None),
        (["model.train_ds.manifest_filepath=a.json", "model.validation_ds.manifest_filepath=null"], None),
    ],
)
def test_data_must_be_named(overrides, message):
    with overridden(composed("", "birq_conformer_tiny"), *overrides) as cfg:
        if message is None:
            check_data_named(cfg.model, "train_ds", "validation_ds")
            return
        with pytest.raises(ValueError, match=re.escape(message)):
            check_data_named(cfg.model, "train_ds", "validation_ds")


# --- the commands ------------------------------------------------------------------------------------------------------

DATA = [
    f"model.train_ds.manifest_filepath={CORPUS}/validation/validation.json",
    f"model.validation_ds.manifest_filepath={CORPUS}/test/test.json",
]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("pretrain", ["--config-name=birq_conformer_tiny", *DATA, "trainer.max_steps=0"],
         "trainer.max_steps=0 is not allowed: it must be at least 1, or -1 for no limit"),
        ("pretrain", ["--config-name=birq_conformer_tiny"],
         "model.train_ds.manifest_filepath is not set: name the data with "
         "model.train_ds.manifest_filepath=/data/manifest.json"),
        ("untrained-model", ["--config-name=birq_conformer_tiny", *DATA, "model.birq.quantizer.num_codes=1"],
         "model.birq.quantizer.num_codes=1 is not allowed: it must be a whole number from 2 to 1000000"),
        ("finetune", [*DATA, "init_from_nemo_model=none.nemo", "model.optim.lr=nan"],
         "model.optim.lr=nan is not allowed: it must be a number above 0"),
    ],
)  # fmt: skip
def test_a_command_ends_with_one_line(command, arguments, message, nothing_written):
    done = CliRunner().invoke(cli.main, [command, *arguments], prog_name="birq")
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == f"birq {command}: {message}"
    for noise in ("Traceback", "Hydra config", "ExpManager schema"):
        assert noise not in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objective=papr"], "objective=papr does not exist: did you mean paper? Known are best_rq_refined, "),
        (["+data=libri"], "data=libri does not exist: did you mean librispeech? Known are ami, librispeech, yodas"),
        (["--config-name=conformer_tiny"], "--config-name=conformer_tiny does not exist: did you mean birq_conformer_tiny?"),
        (["model.birq={a"], "model.birq={a cannot be read (no viable alternative at input '{a'): write KEY=VALUE"),
        (["seed=1,2"], "Ambiguous value for argument 'seed=1,2' 1. To use it as a list"),
        (["model.optm.lr=1"], "model.optm is not a key of the configuration: did you mean model.optim? (+KEY="),
    ],
)  # fmt: skip
def test_what_hydra_refuses_is_one_line_with_a_remedy(arguments, message, nothing_written):
    done = CliRunner().invoke(cli.main, ["pretrain", *arguments], prog_name="birq")
    assert done.exit_code == 1
    (line,) = [line for line in done.output.splitlines() if line.startswith("birq pretrain: ")]
    assert line.startswith(f"birq pretrain: {message}") and done.output.splitlines()[-1] == line
    assert "Traceback" not in done.output


def test_errors_of_training_keep_their_traceback(monkeypatch):
    """Hydra prints only its part in the command."""

    def fail(cfg):
        raise RuntimeError("a fault of ours")

    command = cli.main.get_command(click.Context(cli.main), "pretrain")
    monkeypatch.setattr(command, "callback", fail)
    done = CliRunner().invoke(cli.main, ["pretrain", "--config-name=birq_conformer_tiny"], prog_name="birq")
    assert done.exit_code == 1 and "RuntimeError: a fault of ours" in done.output
