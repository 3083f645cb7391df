"""model.birq has one set of defaults, and a misspelled key is refused with the nearest one."""

from dataclasses import asdict

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from nemo_birq.command_line.override_hints import current_spelling, unknown_key
from nemo_birq.config import BiRQConfig, parse
from nemo_birq.config_checks import check_run_keys
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.unit

# The default preset takes these two from the schedule of the configuration.
OF_THE_SCHEDULE = {"start_step", "ramp_steps"}


def birq_of(config: str, *overrides: str) -> dict:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        return OmegaConf.to_container(compose(config, overrides=list(overrides)).model.birq, resolve=True)


def flat(node: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_the_defaults_are_those_of_the_default_preset():
    shipped, defaults = flat(birq_of("birq_conformer_large")), flat(asdict(BiRQConfig()))
    different = {key for key, value in shipped.items() if defaults[key] != value}
    assert different == {f"loss.{key}" for key in OF_THE_SCHEDULE}
    assert not {key for key in defaults if key.startswith(("labels.", "masking.", "anchor."))} - shipped.keys()


def test_presets_differ_from_the_default_in_what_they_name():
    default = flat(birq_of("birq_conformer_large"))
    changed = {
        preset: {key for key, value in flat(birq_of("birq_conformer_large", f"objective={preset}")).items()
                 if default[key] != value}
        for preset in ("paper", "tracked", "best_rq_refined", "refined_tracked")
    }  # fmt: skip
    assert changed["tracked"] == {"labels.layer", "labels.codebook", "labels.code_dim", "loss.enhanced_weight"}
    assert changed["best_rq_refined"] == {
        "anchor.projection", "anchor.codes", "loss.enhanced_weight", "loss.head",
    }  # fmt: skip
    assert changed["refined_tracked"] == changed["tracked"] | {"anchor.projection", "anchor.codes"}
    assert changed["paper"] == {"labels.label_gradient"} | {
        f"loss.{key}" for key in ("enhanced_weight", "anchor_weight", "start_step", "ramp_steps", "head")
    }


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"labels": {"logit_scal": 40}}, r"model\.birq\.labels\.logit_scal .*model\.birq\.labels\.logit_scale\?"),
        ({"lables": {"layer": 3}}, r"model\.birq\.lables .*model\.birq\.labels\?"),
        ({"masking": {"xyz": 3}}, r"model\.birq\.masking\.xyz .*noise_std, span_frames, start_probability, threshold"),
        ({"labels": {"statistics": "running"}}, r"model\.birq\.labels\.statistics=running"),
    ],
)
def test_a_key_that_does_not_exist_is_refused_with_the_nearest(node, message):
    with pytest.raises(ValueError, match=message):
        parse(node)


def test_files_of_earlier_versions_may_hold_retired_keys():
    assert parse({"labels": {"statistics": "batch", "layer": 2}}).labels.layer == 2


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("modle.x", "model"), ("model.optm", "model.optim"), ("model.train_dss", "model.train_ds"),
        ("trainer.max_step", "trainer.max_steps"), ("trainer.limit_train_batch", "trainer.limit_train_batches"),
        ("exp_manger", "exp_manager"), ("init_from_nemo_modell", "init_from_nemo_model"),
    ],
)  # fmt: skip
def test_unknown_keys_of_a_run_are_refused_with_the_nearest(key, nearest):
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny")
        check_run_keys(cfg)
        check_run_keys(compose("birq_conformer_tiny", overrides=["+minutes=3"]), "minutes")
    OmegaConf.set_struct(cfg, False)
    OmegaConf.update(cfg, key, 1)
    with pytest.raises(ValueError, match=rf"{key.split('.x')[0]} .*\b{nearest}\?"):
        check_run_keys(cfg)


def test_an_override_of_an_unknown_key_gets_a_hint():
    arguments = ["--config-name=birq_conformer_tiny", "objective=tracked", "model.birq.labels.logit_scal=20"]
    hint = unknown_key(ROOT / "conf", "birq_conformer_large", arguments)
    assert "model.birq.labels.logit_scal " in hint and "did you mean model.birq.labels.logit_scale?" in hint
    known = ["--config-name", "birq_conformer_tiny", "model.birq.labels.logit_scale=20", "trainer.max_steps=3"]
    assert unknown_key(ROOT / "conf", "birq_conformer_large", known) is None


def test_the_group_of_presets_may_have_its_earlier_name():
    assert current_spelling("labels=paper") == "objective=paper"
    assert current_spelling("model.labels=[a]") == "model.labels=[a]"
