"""Configurations of other authors' files: nothing of the environment gets into a model, a card or an error message."""

from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from nemo_birq import cli, load_encoder, load_model
from nemo_birq.checkpoint.foreign_config import refuse_resolvers
from nemo_birq.checkpoint.nemo_archive import read_config
from nemo_birq.scoring.recognizers import check_recognizer
from tests.helpers.models import make_config, make_model, train
from tests.helpers.nemo_files import repack

pytestmark = pytest.mark.unit
VALUE = "value-of-the-environment"
HOSTILE = {
    "a resolver": {"note": "${oc.env:NOTHING_OF_YOURS}"},
    "inside a text": {"note": ["a", {"b": "x ${oc.env:NOTHING_OF_YOURS} y"}]},
    "inside arithmetic": {"note": "${multiply:2,${oc.env:NOTHING_OF_YOURS}}"},
    "a name from another key": {"a": "env", "note": "${oc.${a}:NOTHING_OF_YOURS}"},
    "escaped, for the second reader": {"note": "\\${oc.env:NOTHING_OF_YOURS}"},
    "put together from pieces": {"a": "$", "b": "{oc.env:NOTHING_OF_YOURS}", "note": "${a}${b}"},
    "another resolver": {"note": "${oc.decode:${oc.env:NOTHING_OF_YOURS}}"},
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NOTHING_OF_YOURS", VALUE)


def resolved(nodes: dict) -> dict:
    return OmegaConf.to_container(OmegaConf.create(nodes), resolve=True)


@pytest.mark.parametrize("nodes", [nodes for nodes in HOSTILE.values() if "multiply" not in str(nodes)])
def test_these_values_do_reach_the_environment(nodes):
    """They do so at the second reader at the latest, because NeMo resolves configurations when building and saving."""
    assert VALUE in str(resolved(resolved(nodes)))


@pytest.mark.parametrize("nodes", HOSTILE.values(), ids=HOSTILE)
def test_resolvers_are_refused_with_their_key(nodes):
    with pytest.raises(ValueError, match=r"^x\.nemo: the value of (pretraining\.)?note\b.*Do not use this file") as refused:
        refuse_resolvers(OmegaConf.create(nodes), "x.nemo")
    assert VALUE not in str(refused.value) and "\n" not in str(refused.value)


def test_a_resolver_outside_of_the_node_that_is_read_is_found():
    whole = OmegaConf.create({"outside": "${oc.env:NOTHING_OF_YOURS}", "model": {"note": "${outside}"}})
    with pytest.raises(ValueError, match=r"the value of outside"):
        refuse_resolvers(whole.model, "x.nemo")


def test_what_cannot_be_resolved_is_named():
    for nodes in ({"a": "${b}", "b": "${a}"}, {"a": "${nowhere.b}"}):
        with pytest.raises(ValueError, match=r"x\.nemo: its configuration cannot be resolved \(.+\)"):
            refuse_resolvers(OmegaConf.create(nodes), "x.nemo")


def test_interpolations_of_nemo_are_read():
    """These are keys, relative keys, and NeMo's two resolvers for numbers."""
    config = OmegaConf.create({
        "defaults": {"width": 4, "names": ["a", "b"]}, "width": "${defaults.width}", "inner": {"width": "${..width}"},
        "four_times": "${multiply:${defaults.width}, 4}", "more": "${sum:${multiply:2,3},${width}}", "missing": "???",
        "name": "${defaults.names[1]}-${width}", "cost": "5 $ {a:b}",
    })  # fmt: skip
    refuse_resolvers(config, "x.nemo")
    assert (config.inner.width, config.four_times, config.name) == (4, 16, "b-4")


def with_config(source: Path, target: Path, **changes: object) -> Path:
    """Copies a ``.nemo`` with changes of its configuration, written unresolved."""

    def change(folder: Path) -> None:
        config = OmegaConf.load(folder / "model_config.yaml")
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
        OmegaConf.save(config, folder / "model_config.yaml")

    repack(source, target, change)
    return target


def test_every_reader_of_a_nemo_refuses_a_resolver(nemo, tmp_path, capsys):
    record = {"steps": 1, "data": {"training": [{"name": "${oc.env:NOTHING_OF_YOURS}"}]}}
    hostile = with_config(nemo, tmp_path / "hostile.nemo", pretraining=record)
    key = r"hostile\.nemo: the value of pretraining\.data\.training\[0\]\.name"
    for reader in (read_config, load_model, load_encoder, check_recognizer):
        with pytest.raises(ValueError, match=key):
            reader(hostile)
    (tmp_path / "hub").mkdir()
    with pytest.raises(SystemExit, match=f"birq export: .*{key}"):
        cli.main(["export", str(hostile), str(tmp_path / "hub" / "encoder.nemo")], prog_name="birq")
    assert list((tmp_path / "hub").iterdir()) == [] and VALUE not in capsys.readouterr().out


def test_a_nemo_with_interpolations_of_its_own_keys_opens(nemo, tmp_path):
    path = with_config(nemo, tmp_path / "own.nemo", encoder__feat_in="${preprocessor.features}")
    assert read_config(path).encoder.feat_in == 20
    assert load_model(path).cfg.encoder.feat_in == 20


def test_a_checkpoint_with_a_resolver_is_refused(tmp_path):
    cfg = make_config(note="${oc.env:NOTHING_OF_YOURS}")
    torch.save({"hyper_parameters": {"cfg": cfg}, "state_dict": {}}, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match=r"hostile\.ckpt: the value of note\b"):
        load_model(tmp_path / "hostile.ckpt")


def test_own_files_hold_values_where_the_command_had_resolvers(tmp_path):
    """A user's own configuration may read the environment; the files of a run do not."""
    config = make_config(train_ds={"manifest_filepath": None}, card={"license": "${oc.env:NOTHING_OF_YOURS}"})
    trainer = train(model := type(make_model())(config), tmp_path / "run", 1)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    model.save_to(str(tmp_path / "model.nemo"))
    for path in (tmp_path / "model.ckpt", tmp_path / "model.nemo"):
        assert load_model(path).cfg.card.license == VALUE
