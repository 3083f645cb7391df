"""The estimate of benchmarks/paper_cost.py, compared with real steps, and every command of docs/reproduce_paper.md."""

import argparse
import json
import re
import runpy
import shlex
import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from nemo_birq.command_line.command import Command
from nemo_birq.config import parse, resolve_layer
from nemo_birq.config_checks import check_modules
from nemo_birq.data.epoch_batches import BatchSettings
from nemo_birq.data.epoch_plan import plan_epoch
from tests.helpers.benchmarks import SMALL
from tests.helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import paper_cost
from flop_counting import flop_counter
from step_counts import CudaAutocast, _build, _masked_frames, _saved, count_step
from step_variants import Setting, build

pytestmark = pytest.mark.unit
DOC = (ROOT / "docs" / "reproduce_paper.md").read_text()
RESULT = json.loads((ROOT / "docs" / "results" / "paper_cost.json").read_text())
LOCAL = ("model.encoder.self_attention_model=rel_pos_local_attn", "model.encoder.att_context_size=[8,8]")
DROPOUT = ("model.encoder.dropout=0.1", "model.encoder.dropout_att=0.1")
GRADIENT = {"BiRQ": 0, "BiRQ, label gradient": 1}


# --- the count ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "encoder"), [("BiRQ", DROPOUT), ("BiRQ", LOCAL), ("BiRQ, label gradient", ())])
def test_count_is_that_of_a_real_step(name, encoder):
    setting = Setting("birq_conformer_tiny", (*SMALL, *encoder), batch_seconds=6, utterance_seconds=3)
    counts = count_step(setting, f"model.birq.labels.label_gradient={GRADIENT[name]}", mask_seed=1)
    variant, batch = build(name, setting), setting.batch()
    with flop_counter() as flops:
        variant.step(batch)
    assert counts.flop == flops.get_total_flops()
    with _saved(variant.model) as saved:
        kept = variant.loss(batch, 1)  # with its graph
    assert counts.saved == sum(saved.values()) and kept.requires_grad
    assert counts.parameters == sum(p.numel() for p in variant.trained)
    averages = [t for state in variant.optimizer.state.values() for t in state.values() if t.ndim]
    tensors = [*variant.trained, *(p.grad for p in variant.trained), *averages, *variant.model.buffers()]
    assert counts.fixed == sum(t.numel() * t.element_size() for t in tensors)


def test_as_many_masked_frames_as_on_average():
    model, lengths = _build(Setting("birq_conformer_tiny", SMALL), ()), torch.full((3,), 1500)
    many = model.masking.draw(torch.full((3000,), 1500), 1504, torch.Generator().manual_seed(5))
    share = float(model.masked_frames(many, 376).numel()) / 3000
    assert len(_masked_frames(model, torch.zeros(3, 1504, dtype=bool), lengths, None)) == pytest.approx(3 * share, rel=0.02)


def test_the_encoder_alone_costs_less():
    setting = Setting("birq_conformer_tiny", SMALL, batch_seconds=4, utterance_seconds=2)
    alone, whole = count_step(setting, encoder_only=True), count_step(setting)
    assert alone.flop < whole.flop and alone.saved < whole.saved
    assert alone.parameters == whole.parameters - 2 * 16 * (32 + 1)  # two heads


def test_saved_bytes_of_a_known_graph():
    layer = nn.Linear(5, 3)
    signal = torch.zeros(7, 5, requires_grad=True)
    with _saved(layer) as saved:
        layer(signal.exp()).relu().square().sum()
    # exp keeps its result, which is also what the layer needs; relu keeps its result, which is also what square needs
    assert sum(saved.values()) == 4 * (7 * 5 + 7 * 3)


def test_float32_where_a_gpu_takes_it():
    signal = torch.randn(4, 8)
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 8)
    with CudaAutocast(), torch.autocast("cpu", torch.bfloat16):
        half = linear(signal)
        assert half.dtype == torch.bfloat16
        assert norm(half).dtype == half.softmax(1).dtype == torch.softmax(half, 1).dtype == torch.float32
        torch.testing.assert_close(norm(half), nn.functional.layer_norm(half.float(), (8,)))
    with CudaAutocast():
        assert norm.bfloat16()(half).dtype == torch.bfloat16


# --- the estimate -------------------------------------------------------------------------------------------------------


def test_hours_of_a_known_number_of_operations():
    flop = 8 * 989e12 * 3600  # an hour of eight H100 at their peak
    assert [paper_cost.hours_on(flop, "H100", u) for u in (20, 40)] == pytest.approx([5.0, 2.5])
    assert paper_cost.hours_on(flop, "A100", 20) == pytest.approx(5.0 * 989 / 312)


def test_rows_are_priced_by_their_audio():
    keys = dict.fromkeys(stage.counted for _, _, stages in paper_cost.table_rows() for stage in stages)
    names = ("model", "variant", "utterance_seconds", "layer")
    rows = paper_cost.count_rows([dict(zip(names, key, strict=True)) | {"flop_per_second": 1.0} for key in keys])
    flop = {(row["table"], row["row"]): row["flop"] for row in rows}
    assert flop[2, "supervised"] == 100 * 30 * 3600
    assert flop[2, "BEST-RQ"] == (960 * 100 + 100 * 30) * 3600
    assert flop[3, "BiRQ, objective=paper"] == (5000 * 100 + 150 * 30) * 3600
    assert flop[1, "offline relabelling, the second"] == (960 * 100 + 100 * 30) * 3600
    assert flop[1, "BiRQ, objective=paper, layer 3, 300 epochs"] == (960 * 300 + 100 * 30) * 3600
    assert paper_cost.flop_table(rows)[-1][-1] == f"{sum(flop.values()) / 1e18:.3g}"
    for row in rows:
        assert all(
            stage["steps"] * stage["flop_per_step"] == pytest.approx(stage["flop"], rel=1e-3) for stage in row["stages"]
        )
    steps = {(row["table"], row["row"]): row["stages"][0]["steps"] for row in rows}
    assert steps[2, "BEST-RQ"] == 439_500 and steps[1, "BiRQ, objective=paper, layer 3, 300 epochs"] == 3 * 439_500


def test_committed_counts_agree_with_what_was_measured():
    assert len(RESULT["checks"]) == 6
    for check in RESULT["checks"]:
        assert check["flop"] == check["measured_flop"]
        assert 1 < check["measured_bytes"] / check["bytes"] < 2
    sizes = {c["model"]: c["parameters"] for c in RESULT["counts"] if c["variant"] == "CTC"}
    assert {model: round(size / 1e6) for model, size in sizes.items()} == {"137m": 137, "155m": 155, "275m": 274}


def test_the_page_shows_the_committed_numbers():
    assert RESULT["rows"] == json.loads(json.dumps(paper_cost.count_rows(RESULT["counts"])))
    margin = paper_cost.memory_margin(RESULT["checks"])
    tables = [paper_cost.memory_table(RESULT["counts"], margin), paper_cost.hours_table(RESULT["rows"], [8, 12, 20])]
    for cells in tables:
        assert paper_cost.markdown(cells) in DOC


# --- the commands -------------------------------------------------------------------------------------------------------

RECORDING = """
python() { printf '%q ' "$@"; printf '\\n'; }
tar() { printf 'tar '; printf '%q ' "$@"; printf '\\n'; }
lhotse() { :; }; hf() { :; }; shuf() { :; }
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    """Returns the arguments of every command of the page, in order, as bash expands them; nothing is run."""
    folder = tmp_path_factory.mktemp("paper")
    (folder / "data" / "librispeech" / "dev-other").mkdir(parents=True)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", DOC, re.DOTALL)).replace("/data/", f"{folder}/data/")
    done = subprocess.run(["bash", "-eu"], input=RECORDING + blocks, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def composed(command, folder):
    name = next(a.removeprefix("--config-name=") for a in command if a.startswith("--config-name="))
    with initialize_config_dir(str(ROOT / folder), version_base=None):
        return compose(name, [a for a in command[1:] if not a.startswith("--")])


def of(commands, script):
    return [command for command in commands if command[0] == f"scripts/{script}.py"]


def test_every_pretraining_is_a_valid_configuration(commands):
    found = [*of(commands, "speech_pre_training"), *of(commands, "check_labels")]
    assert len(found) >= 13
    for command in found:
        cfg = composed(command, "conf")
        model = OmegaConf.create(OmegaConf.to_container(cfg.model, resolve=True, throw_on_missing=True))
        birq = parse(model.birq)
        check_modules(model, birq)
        layer = resolve_layer(birq.labels.layer, model.encoder.n_layers)
        name = cfg.name
        assert layer == (3 if name.startswith("small-birq") else 4 if name.startswith("small") else 7)
        assert birq.labels.label_gradient == ("paper" in name)
        assert (birq.loss.enhanced_weight, birq.loss.anchor_weight, birq.loss.head) == (
            (0.1, 2.4, "shared") if "paper" in name
            else (0.5, 1.0, "separate") if "birq" in name.lower()
            else (0.0, 1.0, "shared")
        )  # fmt: skip
        epochs = 300 if name.endswith("300") else 100
        assert (cfg.trainer.max_epochs, cfg.trainer.max_steps, cfg.trainer.devices) == (epochs, -1, 8)
        total = 8 * cfg.model.train_ds.batch_size
        assert total == (128 if "yodas" in command[2] + name else 64)
        steps = (900_000 if total == 128 else 281_241) / total * epochs
        if "paper" not in name:
            assert birq.loss.start_step == pytest.approx(0.1 * steps, rel=0.02)
        assert cfg.model.optim.sched.warmup_steps == pytest.approx(0.07 * steps, rel=0.03)
        assert cfg.model.optim.lr == 1e-4


def test_encoders_have_the_sizes_of_the_paper():
    for config, size in (("137m", 137), ("155m", 155), ("275m", 274)):
        assert size_of(Setting(f"birq_conformer_{config}")) == size


def size_of(setting: Setting) -> int:
    return round(sum(p.numel() for p in _build(setting, ()).encoder.parameters()) / 1e6)


def test_every_fine_tuning_is_a_valid_configuration(commands):
    found = of(commands, "speech_to_text_finetune")
    assert len(found) == 4 + 4 + 6
    for command in found:
        cfg = composed(command, "conf/finetune")
        needed = {"manifest_filepath", "tarred_audio_filepaths"}
        assert all(cfg.model.train_ds[key] for key in needed) and cfg.model.validation_ds.manifest_filepath
        assert len(cfg.test_manifests) == 2 and cfg.trainer.max_epochs == 30
        assert cfg.from_scratch == ("scratch" in cfg.name)


class Parsed(Exception):
    pass


def test_every_other_command_is_understood_by_its_script(commands, monkeypatch):
    hydra = ("speech_pre_training", "check_labels", "speech_to_text_finetune")

    original = argparse.ArgumentParser.parse_args  # of the benchmarks

    def invoke(self, ctx):
        raise Parsed

    def parse_args(self, *args, **kwargs):
        original(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(Command, "invoke", invoke)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    seen = set()
    for command in commands:
        if command[0] == "tar" or command[0] in {f"scripts/{name}.py" for name in hydra}:
            continue
        seen.add(command[0])
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(Parsed):
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
    assert {
        f"scripts/{name}.py" for name in ("make_shards", "verify_shards", "cluster_labels", "score", "compare_scores")
    } <= seen


def test_what_a_command_reads_has_been_made_by_one_before(commands):
    """This covers shards with their number, unpacked sets, models, teachers and scores."""
    shards, unpacked, made = {}, set(), set()
    for command in commands:
        line = " ".join(command)
        for folder, last in re.findall(
            r"(\S*?/data/\w[^\s=\[\]',]*?)/(?:sharded_manifests/manifest|audio)__OP_0\.\.(\d+)_", line
        ):
            assert shards[folder.split("[")[-1].split("=")[-1]] == int(last) + 1, line
        for folder in re.findall(r"(/[^\s=\[\]',]*)/tarred_audio_manifest\.json", line):
            assert folder in unpacked, line
        for path in re.findall(r"nemo_experiments/([\w-]+)/checkpoints/([\w-]+)\.nemo", line):
            assert path[0] == path[1] and path[0] in made, line
        options = dict(pairwise(command))
        if command[0] == "scripts/make_shards.py":
            shards[options["--out"]] = int(options["--num-shards"])
        elif command[0] == "tar":
            unpacked.add(options["-C"])
        elif command[0] == "scripts/cluster_labels.py":
            made.add(options["--out"])
        elif command[0] == "scripts/score.py":
            tag = options["--lm"].removesuffix(".arpa") if "--lm" in options else "greedy"
            sets = [a.split("=")[0] for a in command[2:] if "=" in a]
            model = command[1].split("/")[-1].removesuffix(".nemo")
            made |= {f"{options['--out']}/{model}_{name}_{tag}.json" for name in sets}
        elif command[0] == "scripts/compare_scores.py":
            assert set(command[1:]) <= made, line
        made |= {a.removeprefix("name=") for a in command if a.startswith("name=")}
        teacher = [a.split("=")[1] for a in command if a.startswith("model.birq.relabelling.teacher=")]
        assert set(teacher) <= made, line
    assert len(shards) == 2 + 4 + 6 + 1 and len(unpacked) == 4 + 4


# --- the batches --------------------------------------------------------------------------------------------------------


def steps_and_seconds(durations, **settings):
    """Returns the steps of an epoch on 8 GPUs, and the mean seconds of a batch."""
    index = SimpleNamespace(durations=durations, shards=np.arange(len(durations)) % 50)
    index = type("Index", (SimpleNamespace,), {"__len__": lambda self: len(self.durations)})(**vars(index))
    common = {"use_bucketing": True, "num_buckets": 30, "bucket_buffer_size": 10_000, "shuffle": True}
    plan = plan_epoch([index], None, BatchSettings(**common, **settings), 0, 8)
    return len(plan) / 8, float(durations.sum()) / len(plan)


def test_batches_are_what_the_page_says():
    durations = np.random.default_rng(0).normal(12.3, 3.8, 20_000).clip(1.3, 24.5)
    steps, _ = steps_and_seconds(durations, batch_size=8)
    assert steps == pytest.approx(20_000 / 64, rel=0.01)
    _, seconds = steps_and_seconds(durations, batch_duration=600, quadratic_duration=20)
    assert seconds == pytest.approx(330, rel=0.02) and "330 s" in DOC
    epochs = 72_000 * 8 * seconds / (960 * 3600)
    assert epochs == pytest.approx(55, abs=1) and "55 epochs" in DOC
    _, seconds = steps_and_seconds(durations, batch_duration=600)
    assert seconds == pytest.approx(560, rel=0.02) and "560 s" in DOC
