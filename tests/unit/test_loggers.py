"""Loggers: a run that could not log is refused before it begins, in one line with the remedy."""

import pytest

from nemo_birq.config_checks.experiment import check_experiment
from nemo_birq.config_checks.trainer import check_trainer_settings

pytestmark = pytest.mark.unit
TRAINER = {"max_steps": 1, "logger": False, "enable_checkpointing": False}


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))


def check(tmp_path, **more) -> None:
    names = {"name": "a", "project": "b"} | more
    node = {"create_wandb_logger": True, "wandb_logger_kwargs": names, "exp_dir": str(tmp_path)}
    check_experiment(node, check_trainer_settings(TRAINER))


def test_without_a_login_one_line_says_what_to_do(logged_out, tmp_path):
    with pytest.raises(
        ValueError, match=r"create_wandb_logger=true: .*not logged in.*`wandb login`.*WANDB_MODE=off"
    ) as said:
        check(tmp_path)
    assert "\n" not in str(said.value)
    check(tmp_path, offline=True)


def test_a_key_that_cannot_be_one_is_named(logged_out, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    with pytest.raises(ValueError, match=r"WANDB_API_KEY invalid: .*40.*\. Run `wandb login`"):
        check(tmp_path)


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "offline"), ("WANDB_API_KEY", 40 * "a")])
def test_offline_and_with_a_key_it_begins(logged_out, tmp_path, monkeypatch, name, value):
    """Nothing is sent; the key is checked when the run begins."""
    monkeypatch.setenv(name, value)
    check(tmp_path)


def test_the_logger_that_nemo_cannot_create_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"exp_manager\.create_mlflow_logger=true .*NeMo 3\.0\.0"):
        check_experiment({"create_mlflow_logger": True, "exp_dir": str(tmp_path)}, check_trainer_settings(TRAINER))
