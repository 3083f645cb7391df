"""NeMo's ways to name data and its loaders' keys have the same meaning, or are refused with a remedy."""

import json
import re
from dataclasses import fields

import pytest
from click.testing import CliRunner
from nemo.collections.common.data.lhotse.cutset import get_known_config_data_types
from nemo.collections.common.data.lhotse.dataloader import LhotseDataLoadingConfig
from omegaconf import OmegaConf

from nemo_birq import cli
from nemo_birq.command_line.override_hints import expanded_by_shell
from nemo_birq.config_checks import check_data_named
from nemo_birq.config_checks.datasets import PretrainingDataset, check_dataset
from nemo_birq.config_checks.nemo_keys import NO_EFFECT, REFUSED
from nemo_birq.data.factory import OTHER_KEYS, SETTINGS, build_dataloader
from nemo_birq.data.sources import read_sources
from nemo_birq.data.validation_sets import separate_sets
from tests.helpers.models import SAMPLE_RATE, make_model
from tests.helpers.paths import CORPUS, ROOT
from tests.helpers.shards import make_shards

pytestmark = pytest.mark.unit
UNSET = [None, "", "???"]


def sources(**node: object) -> list[tuple]:
    return [tuple(source) for source in read_sources(OmegaConf.create(node))]


# --- manifest_filepath and tarred_audio_filepaths ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("manifests", "tars", "expected"),
    [
        ("a.json", None, [("a.json", None, None)]),
        ("[a.json,b.json]", None, [("a.json", None, None), ("b.json", None, None)]),
        ("['a.json', \"b.json\"]", None, [("a.json", None, None), ("b.json", None, None)]),
        ("[[a.json,0.3],[b.json,0.7]]", None, [("a.json", None, 0.3), ("b.json", None, 0.7)]),
        ("[[a_[0..3].json],[b.json]]", "[[a.tar],[b.tar]]", [("a_[0..3].json", "a.tar", None), ("b.json", "b.tar", None)]),
        ("a.json,b.json", None, [("a.json + b.json", None, None)]),
        ("one, two.json", None, [("one, two.json", None, None)]),  # a name with a comma
        ([["a.json", 1], ["b.json", 3]], None, [("a.json", None, 1.0), ("b.json", None, 3.0)]),
        ([["a.json", "b.json"]], [["a.tar", "b.tar"]], [("a.json + b.json", "a.tar + b.tar", None)]),
        ("a.json", ["x/audio_0.tar", "y/audio_1.tar"], [("a.json", "x/audio_0.tar + y/audio_1.tar", None)]),
        ("a.json", "pipe:cat a,b.tar", [("a.json", "pipe:cat a,b.tar", None)]),
    ],
)
def test_names_of_data(manifests, tars, expected):
    assert sources(manifest_filepath=manifests, tarred_audio_filepaths=tars) == expected


def test_patterns_of_several_files():
    node = {
        "manifest_filepath": "x/m_{0..1}.json,y/m_(0..1).json",
        "tarred_audio_filepaths": ["x_<0..1>.tar", "y__OP_0..1_CL_.tar"],
    }
    (source,) = read_sources(OmegaConf.create(node))
    assert source.manifest_paths == ["x/m_0.json", "x/m_1.json", "y/m_0.json", "y/m_1.json"]
    assert source.tar_paths == ["x_0.tar", "x_1.tar", "y_0.tar", "y_1.tar"]


def test_brackets_of_a_command_are_its_own():
    command = 'pipe:[ -f a ] && (cat a_{0..1}.tar <b >c 2>/dev/null || echo "$x")'
    (source,) = read_sources(OmegaConf.create({"manifest_filepath": "a.json", "tarred_audio_filepaths": command}))
    assert source.tar_paths == [command.replace("{0..1}", number) for number in "01"]


@pytest.mark.parametrize("value", [[[]], [["a.json", None]], [{"path": "a.json"}], [3]])
def test_values_that_name_no_file_are_shown(value):
    with pytest.raises(ValueError, match=r"manifest_filepath: .* an entry is a path, a list of paths, or"):
        sources(manifest_filepath=value)


# --- input_cfg --------------------------------------------------------------------------------------------------------


def nemo(name: str, **changes: object) -> dict:
    return {"type": "nemo", "manifest_filepath": f"{name}.json"} | changes


def group(*members: dict, **changes: object) -> dict:
    return {"type": "group", "input_cfg": list(members)} | changes


@pytest.mark.parametrize(
    ("items", "weights"),
    [
        ([nemo("a"), group(nemo("b"), nemo("c"))], [None, None, None]),  # by number of utterances
        ([nemo("a", weight=3), nemo("b", weight=1)], [3, 1]),
        ([group(nemo("a", weight=3), nemo("b", weight=1))], [3, 1]),
        ([group(nemo("a"), nemo("b"), weight=0.5), nemo("c", weight=0.5)], [0.25, 0.25, 0.5]),
        ([group(nemo("a"), group(nemo("b"), nemo("c")), weight=0.5), nemo("d", weight=0.5)], [0.25, 0.125, 0.125, 0.5]),
        ([group(nemo("a", weight=3), nemo("b", weight=1)), group(nemo("c"))], [0.75, 0.25, 1.0]),
        ([nemo("a", manifest_filepath=[["a.json"], ["b.json"]], weight=1), nemo("c", weight=1)], [1, 1]),  # buckets
        ([nemo("a", manifest_filepath=[["a.json", 3], ["b.json", 1]], weight=2), nemo("c", weight=1)], [1.5, 0.5, 1]),
    ],
)
def test_weights_of_groups_are_those_of_nemo(items, weights):
    """Members of a group without weights have equal shares of it, where any dataset has a weight."""
    assert [source[2] for source in sources(input_cfg=items)] == weights


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([nemo("a", weight=1), nemo("b")], r"weight to each of the 2 datasets, or to none: .*a\.json.*b\.json"),
        ([nemo("a", weight=0)], "must be above 0"),
        ([nemo("a", type="nemo_tarred")], "type=nemo_tarred lacks tarred_audio_filepaths"),
        ([{"type": "nemo"}], "type=nemo lacks manifest_filepath"),
        ([{"type": "parquet"}], "type=parquet is not one of"),
        (["a.json"], "type=None is not one of"),
    ],
)
def test_wrong_items_are_named(items, message):
    with pytest.raises(ValueError, match=message):
        sources(input_cfg=items)


def test_a_yaml_file_must_hold_a_list(tmp_path):
    (tmp_path / "data.yaml").write_text("input_cfg:\n- type: nemo\n")
    with pytest.raises(ValueError, match=r"data\.yaml must hold a list of datasets"):
        sources(input_cfg=str(tmp_path / "data.yaml"))


@pytest.mark.parametrize("unset", UNSET)
def test_input_cfg_stands_beside_an_unset_manifest(tmp_path, unset):
    folder = make_shards(tmp_path / "shards")
    data = {"type": "nemo_tarred", "manifest_filepath": f"{folder}/sharded_manifests/manifest__OP_0..1_CL_.json"}
    data["tarred_audio_filepaths"] = f"{folder}/audio__OP_0..1_CL_.tar"
    node = {
        "use_lhotse": True,
        "batch_size": 4,
        "manifest_filepath": unset,
        "tarred_audio_filepaths": unset,
        "input_cfg": [data],
    }
    model = OmegaConf.create({"train_ds": node, "validation_ds": node})
    check_data_named(model, "train_ds", "validation_ds")
    assert not OmegaConf.missing_keys(model)
    check_dataset(PretrainingDataset, OmegaConf.to_container(model.train_ds), "model.train_ds")
    assert sum(len(batch.ids) for batch in build_dataloader(model.train_ds, SAMPLE_RATE, 0, 1, training=False)) == 8
    model.train_ds.input_cfg = None
    with pytest.raises(ValueError, match="manifest_filepath"):
        check_data_named(model, "train_ds")


# --- keys of the loaders ----------------------------------------------------------------------------------------------

TAKEN = SETTINGS | OTHER_KEYS
WITHOUT_EFFECT = {key for keys in NO_EFFECT.values() for key in keys}


def test_every_key_of_nemos_lhotse_loader_is_taken_without_effect_or_refused():
    assert not TAKEN & WITHOUT_EFFECT and not TAKEN & REFUSED.keys() and not WITHOUT_EFFECT & REFUSED.keys()
    for field in fields(LhotseDataLoadingConfig):
        assert field.name in TAKEN | WITHOUT_EFFECT | REFUSED.keys(), field.name
        if field.name in REFUSED:
            assert field.default in REFUSED[field.name][0], field.name


def test_the_documentation_has_every_key_and_every_type_of_input_cfg():
    text = (ROOT / "docs" / "data_loading.md").read_text(encoding="utf-8")
    rows = {}
    for row in re.findall(r"^\| (`.*) \| (taken|means here|refused)\b", text, re.MULTILINE):
        rows |= dict.fromkeys(re.findall(r"`(\w+)`", row[0]), row[1])
    for keys, verdict in ((TAKEN, "taken"), (WITHOUT_EFFECT, "means here"), (REFUSED, "refused")):
        assert {key: rows.get(key) for key in keys} == dict.fromkeys(keys, verdict)
    types = {kind: rows.get(kind) for kind in get_known_config_data_types()}
    assert types == {kind: "taken" if kind in ("nemo", "nemo_tarred", "group") else "refused" for kind in types}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("augmentor", {"noise": {"prob": 0.5}}), ("noise_path", "noise.json"), ("trim_silence", True),
        ("perturb_speed", True), ("channel_selector", 1), ("max_utts", 10), ("cuts_path", "cuts.jsonl.gz"),
        ("is_concat", True), ("truncate_duration", 5.0), ("rir_enabled", True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("reader", ["use_lhotse", "is_tarred"])
def test_keys_that_alter_audio_or_select_are_refused_before_anything_is_read(key, value, reader):
    node = {reader: True, "batch_size": 4, "manifest_filepath": "none.json", key: value}
    remedy = re.escape(REFUSED[key][1].split(":")[0])
    with pytest.raises(ValueError, match=rf"^model\.train_ds\.{key}=.* is not supported for pretraining: {remedy}"):
        check_dataset(PretrainingDataset, node, "model.train_ds")
    with pytest.raises(ValueError, match=rf"^{key}="):
        build_dataloader(OmegaConf.create(node), SAMPLE_RATE, 0, 1, training=False)


@pytest.mark.parametrize("reader", ["use_lhotse", "is_tarred"])
def test_harmless_keys_are_taken_with_what_they_mean_here(tmp_path, reader, caplog):
    folder = make_shards(tmp_path / "shards")
    harmless = {
        "skip_missing_manifest_entries": True, "max_open_streams": 4, "channel_selector": "average", "labels": ["a", "b"],
        "trim_silence": False, "max_utts": 0, "augmentor": None, "shard_seed": "randomized", "is_concat": False,
        "bucketing_strategy": "synced_randomized", "drop_last": True, "noise_mix_prob": 0.3,
    }  # fmt: skip
    node = harmless | {
        reader: True, "batch_size": 4,
        "manifest_filepath": f"{folder}/sharded_manifests/manifest__OP_0..1_CL_.json",
        "tarred_audio_filepaths": f"{folder}/audio__OP_0..1_CL_.tar",
    }  # fmt: skip
    check_dataset(PretrainingDataset, node, "model.train_ds")
    loader = build_dataloader(OmegaConf.create(node), SAMPLE_RATE, 0, 1, training=False)
    assert sum(len(batch.ids) for batch in loader) == 8
    said = [line for line in caplog.text.splitlines() if "no effect" in line]
    assert any("max_open_streams" in line and "planned from seed" in line for line in said)
    assert any("skip_missing_manifest_entries" in line and "max_skipped_share" in line for line in said)
    assert "is ignored" not in caplog.text


# --- several validation sets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", ["use_lhotse", "is_tarred"])
def test_several_tarred_validation_sets(tmp_path, reader):
    one, two = make_shards(tmp_path / "dev-clean"), make_shards(tmp_path / "dev-other", {"more.wav": b"RIFF"})
    manifests = [f"{folder}/sharded_manifests/manifest__OP_0..1_CL_.json" for folder in (one, two)]
    tars = [f"{folder}/audio__OP_0..1_CL_.tar" for folder in (one, two)]
    node = {reader: True, "batch_size": 4, "shuffle": False, "max_skipped_share": 0.5}
    model = make_model()
    lists = node | {"manifest_filepath": manifests, "tarred_audio_filepaths": tars}
    model.setup_multiple_validation_data(OmegaConf.create(lists))
    assert model._validation_names == ["dev_clean_", "dev_other_"]
    assert [{name for batch in loader for name in batch.ids} for loader in model._validation_dl] == 2 * [
        {f"clip{i}.wav" for i in range(8)}
    ]
    assert OmegaConf.to_container(model.cfg.validation_ds) == lists
    items = [
        {"name": f"set{i}", "manifest_filepath": m, "tarred_audio_filepaths": t}
        for i, (m, t) in enumerate(zip(manifests, tars, strict=True))
    ]
    model.setup_multiple_validation_data(OmegaConf.create(node | {"ds_item": items}))
    assert model._validation_names == ["set0_", "set1_"] and len(model._validation_dl) == 2
    buckets = node | {"manifest_filepath": [[m] for m in manifests], "tarred_audio_filepaths": [[t] for t in tars]}
    model.setup_multiple_validation_data(OmegaConf.create(buckets))
    assert not isinstance(model._validation_dl, list)


def test_names_of_validation_sets():
    paths = [f"/data/{part}/sharded_manifests/m.json" for part in ("a", "a", "dataset")]
    node = OmegaConf.create({"manifest_filepath": paths, "tarred_audio_filepaths": ["a.tar", "b.tar", "c.tar"]})
    assert [item.name for item in separate_sets(node).ds_item] == ["a_0_", "a_1_", "set_"]
    node.name = ["x", "y", "z"]
    assert [item.name for item in separate_sets(node).ds_item] == ["x_", "y_", "z_"]
    node.name = ["x"]
    with pytest.raises(ValueError, match=r"name names 1 sets, manifest_filepath 3"):
        separate_sets(node)


def test_validation_of_one_set_is_as_before():
    shards = f"{CORPUS}/train/audio__OP_0..3_CL_.tar"
    for manifests, tars in ((f"{CORPUS}/train/m.json", shards), (["a.json", "b.json"], None), ("a.json", [shards, shards])):
        node = {"manifest_filepath": manifests, "tarred_audio_filepaths": tars, "use_lhotse": True}
        assert separate_sets(node) == OmegaConf.create(node)


@pytest.mark.parametrize("names", [["manifest.json"], ["manifest.json", "dataset.json"]])
def test_sets_of_files_that_nemo_cannot_name_are_named_after_their_folders(names, tmp_path):
    """``birq make-shards --files`` writes manifest.json, which NeMo refuses as the name of a validation set."""
    lines = [json.loads(line) for line in (CORPUS / "validation" / "validation.json").read_text().splitlines()[:4]]
    paths = []
    for number, name in enumerate(names):
        (tmp_path / f"dev{number}").mkdir()
        paths.append(tmp_path / f"dev{number}" / name)
        absolute = [line | {"audio_filepath": str(CORPUS / "validation" / line["audio_filepath"])} for line in lines]
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in absolute))
    model = make_model()
    given = [str(path) for path in paths] if len(paths) > 1 else str(paths[0])
    model.setup_multiple_validation_data(OmegaConf.create({"manifest_filepath": given, "use_lhotse": True, "batch_size": 2}))
    assert model._validation_names == ["dev0_", "dev1_"][: len(names)]


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("brackets", ["{0..3}", "(0..3)", "[0..3]", "<0..3>"])
def test_a_pattern_without_quotes_is_shown_with_them(brackets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = "model.train_ds.manifest_filepath"
    done = CliRunner().invoke(cli.main, ["pretrain", f"{key}=/data/m_{brackets}.json"], prog_name="birq")
    assert done.exit_code == 1
    line = done.output.splitlines()[-1]
    assert line.startswith(f"birq pretrain: {key}=/data/m_{brackets}.json cannot be read (")
    assert f"write '{key}=/data/m__OP_0..3_CL_.json', or '{key}=\"/data/m_{{0..3}}.json\"' with both quotes" in line


def test_a_pattern_that_the_shell_has_replaced_is_shown():
    """Hydra takes the last of four arguments, and a quarter of the data would be read."""
    key = "model.train_ds.tarred_audio_filepaths"
    given = [f"{key}=/data2/audio_{number}.tar" for number in range(4)]
    message = expanded_by_shell(["seed=1", *given, "name=x"])
    assert message.startswith(f"{key} is given 4 times, from /data2/audio_0.tar to /data2/audio_3.tar: the shell")
    assert f"{key}=/data2/audio__OP_0..3_CL_.tar" in message and f"'{key}=\"/data2/audio_{{0..3}}.tar\"'" in message
    done = CliRunner().invoke(cli.main, ["pretrain", *given], prog_name="birq")
    assert done.exit_code == 1 and done.output == f"birq pretrain: {message}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1", "seed=2"],
        ["model.train_ds.manifest_filepath=a.json", "model.validation_ds.manifest_filepath=b.json"],
        ["model.train_ds.manifest_filepath=/data/a.json", "model.train_ds.manifest_filepath=/other/b.json"],
        ["model.train_ds.manifest_filepath=a_0.json", "seed=1", "model.train_ds.manifest_filepath=a_1.json"],
        ["model.train_ds.manifest_filepath=a_0.json", "model.train_ds.manifest_filepath=a_0.json"],
    ],
)
def test_other_arguments_may_be_repeated(arguments):
    assert expanded_by_shell(arguments) is None
