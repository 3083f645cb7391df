"""Experiments: runs of a budget, refused settings, and stages that are repeated or reused."""

import copy
import io
import json
import re
import threading
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import lightning.pytorch as pl
import pytest
import soundfile as sf
import torch
from experiments import execution, resources, results
from experiments.budgets import Budget, budget_names, expand, read_budget
from experiments.corpora import choose_files, open_corpus, read_layouts, write_labelled
from experiments.execution import Interrupted, StageFailed, lock_folder, prepare_folder, read_cost, run_stages
from experiments.resources import Estimate, find_problems, memory_bytes
from experiments.stages import RunPlan, Stage, plan_run
from experiments.sweep import Sweep, last_step
from hydra import compose, initialize_config_dir
from nemo.utils.trainer_utils import resolve_trainer_cfg
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from nemo_birq import BiRQModel
from tests.helpers.models import make_model
from tests.helpers.paths import CORPUS, ROOT

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def corpus():
    return open_corpus("embedded")


@pytest.fixture(scope="module")
def smoke(corpus) -> dict[str, RunPlan]:
    """Runs of the smoke budget by method."""
    return {setting.name: plan_run(setting, corpus) for setting in expand("smoke", read_budget("smoke"))}


# --- what there is to run -----------------------------------------------------------------------------------------------


def budget_file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"pretrain: {{config: birq_conformer_tiny, steps: 8}}\nfinetune: {{steps: 4}}\n{text}")
    return path


def test_methods_come_seed_by_seed_and_then_ablations(tmp_path):
    path = budget_file(tmp_path, "seeds: [3, 4]\nmethods: {birq: {overrides: [a=1]}, relabelled: {relabelling: {layer: 2, "
                       "clusters: 8}}}\nablations: {no_ramp: {overrides: [b=2], finetune: false, seeds: [5]}}")  # fmt: skip
    settings = expand(str(path), read_budget(str(path)))
    methods = ["scratch", "best_rq", "birq", "relabelled"]
    found = [(setting.name, setting.seed, setting.kind) for setting in settings]
    assert found == [(m, seed, "method") for seed in (3, 4) for m in methods] + [("no_ramp", 5, "ablation")]
    assert settings[-1].method.overrides == ["a=1", "b=2"] and not settings[-1].method.finetune
    assert {setting.budget for setting in settings} == {"mine"}
    chosen = expand(str(path), read_budget(str(path)), only=["ablations", "birq"], seeds=[7, 7])
    assert [setting.run_name for setting in chosen] == ["birq_seed7", "no_ramp_seed7"]


def test_a_budget_lies_over_its_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: cpu\nfinetune: {steps: 7}\nmethods: {relabelled: {relabelling: {layer: 2}}, scratch: null}\n")
    mine, base = read_budget(str(path)), read_budget("cpu")
    assert (mine.finetune.steps, mine.methods["relabelled"].relabelling.layer) == (7, 2)
    base.finetune.steps, base.methods["relabelled"].relabelling.layer = 7, 2
    assert base.methods.pop("scratch") and mine == base


def test_a_base_may_have_a_base(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    path.write_text("base: cpu_real\nmethods: {scratch: null}\n")
    mine, base = read_budget(str(path)), read_budget("cpu_real")
    assert base.methods.pop("scratch") and mine == base  # among them the methods of cpu, which is the base of cpu_real
    for name, its in (("methods", None), ("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"base: {its}\n" if its else "{}\n")
    monkeypatch.setattr("experiments.budgets.FOLDER", tmp_path)
    with pytest.raises(ValueError, match=r"a\.yaml: base: b leads back to itself"):
        read_budget("a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("methods: {relabelled: {relabelling: {layer: 0, clusters: 8}}}", r"relabelling.*\blayer=0\b"),
        ("methods: {birq: {overides: [a=1]}}", "overides"),
        ("base: methods", r"mine\.yaml.*\bbase\b.*\bmethods\b.*\bcpu\b"),
        ("pretrain: {config: no_such, steps: 8}", "config=no_such"),
        ("pretrain: {config: birq_conformer_tiny, steps: 0}", "pretrain.steps=0"),
        ("ablations: {birq: {}}", r"\bbirq: .*\bmethod\b.*\bablation\b"),
        ("methods: {relabelled: {relabelling: {layer: 2, clusters: 8, hours: 0}}}", r"relabelling\.hours=0\.0"),
        ("methods: {birq: {begins_from: cpu/best_rq}}", r"birq\.begins_from=cpu/best_rq: .*budget/corpus/method"),
        ("methods: {relabelled: {relabelling: {layer: 2, clusters: 8}, begins_from: a/b/c}}", "begins_from and relabelling"),
        ("labelled_hours: 0", r"labelled_hours=0\.0"),
        ("methods:", r"mine\.yaml.*\bmethods\b(?!.*\bcpu\b)"),
        ("methods: {birq: [", r"mine\.yaml(.|\n)*line 3\b"),
    ],
)
def test_a_budget_with_a_mistake_is_refused(tmp_path, text, said):
    path = tmp_path / "mine.yaml"
    path.write_text(f"finetune: {{steps: 4}}\n{text}\n")
    with pytest.raises(ValueError, match=said):
        read_budget(str(path))


def test_a_second_stage_that_would_fail_is_refused_before_the_first(smoke, corpus):
    def refused(**changes) -> str:
        method = smoke["relabelled"].setting.method
        method = replace(method, relabelling=replace(method.relabelling, **changes))
        with pytest.raises(ValueError, match="relabelled_seed0: ") as caught:
            plan_run(replace(smoke["relabelled"].setting, method=method), corpus)
        return str(caught.value)

    assert "relabelling.layer=5: the encoder has 4 layers" in refused(layer=5)


def test_unknown_names_are_answered_with_those_that_exist(tmp_path):
    with pytest.raises(ValueError, match=r"--budget tiny\b.*\bcpu\b.*\bsmoke\b"):
        read_budget("tiny")
    with pytest.raises(ValueError, match=r"--only bird\b.*scratch, best_rq, birq"):
        expand("smoke", read_budget("smoke"), only=["bird"])
    with pytest.raises(ValueError, match=r"--corpus librispeach\b.*embedded"):
        open_corpus("librispeach")
    with pytest.raises(ValueError, match=r"synthetic=FOLDER"):
        open_corpus("synthetic")
    with pytest.raises(FileNotFoundError, match=r"--corpus synthetic: .*/none\b"):
        open_corpus(f"synthetic={tmp_path}/none")
    with pytest.raises(FileNotFoundError, match=r"--corpus speechocean762\b.*dev\.jsonl.*test\.jsonl.*pretrain\.jsonl"):
        open_corpus(f"speechocean762={tmp_path}")


@pytest.mark.parametrize("budget", budget_names())
def test_every_run_of_every_budget_can_be_configured(budget, corpus):
    """Hydra knows all of its overrides, and no command holds a path of this machine."""
    for setting in expand(budget, read_budget(budget), seeds=[0]):
        run = plan_run(setting, corpus)
        pretraining = [stage for stage in run.stages if stage.script == "scripts/speech_pre_training.py"]
        steps = 0 if not setting.method.pretraining else setting.pretrain.steps
        assert sum(stage.steps for stage in pretraining) == steps
        assert str(ROOT) not in json.dumps([run.commands, run.config, run.finetune_config])


def test_null_leaves_a_method_out():
    """The budget of ablations does not fine-tune, so it has neither a scratch method nor fine-tuning steps."""
    budget = read_budget("ablations")
    assert list(budget.methods) == ["best_rq", "birq"] and budget.finetune.steps == 0
    assert not any(setting.method.finetune for setting in expand("ablations", budget))


@pytest.mark.parametrize(("steps", "looks"), [(250, 3), (700, 3), (24, 2), (7, 7)])
def test_every_stage_is_validated_at_its_end(smoke, corpus, steps, looks):
    """Three validations in 250 steps are at 83, 166 and 249; an interval of 84 would omit the third."""
    for run in smoke.values():
        setting = replace(
            run.setting, pretrain=replace(run.setting.pretrain, steps=steps, checkpoints=looks),
            finetune=replace(run.setting.finetune, steps=steps, validations=looks),
        )  # fmt: skip
        for stage in plan_run(setting, corpus).stages:
            (interval,) = {
                int(a.partition("=")[2]) for a in stage.arguments if a.startswith("trainer.val_check_interval=")
            } or {1}
            assert stage.steps % interval < looks, (stage.name, interval)
            if stage.steps == steps:
                assert stage.steps // interval == looks


def test_matched_methods_differ_in_their_own_overrides_alone(smoke):
    """Data, seed, schedule and recognizer are the same, so two commands differ only in the overrides of the budget."""
    best_rq, birq = (set(smoke[name].stages[0].arguments) for name in ("best_rq", "birq"))
    assert best_rq ^ birq == set(smoke["best_rq"].setting.method.overrides)
    finetuning = {run.stages[-1].arguments[3:] for run in smoke.values()}
    assert len(finetuning) == 1 and {run.stages[-1].name for run in smoke.values()} == {"finetune"}
    assert [stage.name for stage in smoke["relabelled"].stages] == [
        "teacher",
        "clustering",
        "pretrain",
        "labels",
        "finetune",
    ]
    assert [stage.name for stage in smoke["scratch"].stages] == ["untrained", "labels", "finetune"]


TRACKED = ["model.birq.labels.codebook=tracked", "model.birq.labels.code_dim=64"]


def test_methods_begin_with_equal_weights_and_the_same_data(smoke):
    """The whole encoder, bit by bit, the head of the anchor task, and the utterances of the first batches."""
    found = []
    for name, more in (("best_rq", []), ("birq", []), ("birq", TRACKED), ("relabelled", []), ("scratch", [])):
        arguments = [*smoke[name].stages[0].arguments[2:], *more]
        overrides = [execution.fill_in(argument, CORPUS, Path("none")) for argument in arguments]
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            cfg = compose("birq_conformer_tiny", overrides=overrides)
        pl.seed_everything(cfg.seed, workers=True)
        model = BiRQModel(cfg.model, pl.Trainer(**resolve_trainer_cfg(cfg.trainer)))
        batches = iter(model._train_dl)
        order = [list(next(batches)[2]) for _ in range(5)]
        weights = model.state_dict()
        begun = {key: weights[key] for key in weights if key.startswith(("encoder.", "decoder_losses.anchor."))}
        found.append((begun, order))
    (first, order), *others = found
    assert len({name for batch in order for name in batch}) == sum(map(len, order)) and len(first) > 50
    for second, other in others:
        assert order == other and first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


# --- the labelled part --------------------------------------------------------------------------------------------------


def test_labelled_part_of_single_files_is_every_mth_line(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    lines = [{"audio_filepath": f"a{n}.wav", "duration": 36.0, "text": "one"} for n in range(100)]  # one hour
    for line in lines:
        (folder / line["audio_filepath"]).touch()
    (folder / "pretrain.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    layout = read_layouts()["speechocean762"]
    labelled, hours = choose_files(folder, layout, 0.1)
    assert hours == pytest.approx(1.0) and labelled.hours == pytest.approx(0.1)
    write_labelled(labelled, tmp_path)
    written = [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text().splitlines()]
    assert [line["audio_filepath"] for line in written] == [str(folder / f"a{n}.wav") for n in range(0, 100, 10)]
    assert "lines 1, 11, 21" in labelled.note
    with pytest.raises(ValueError, match=r"\b1\.00 h\b.*labelled_hours=2\b"):
        choose_files(folder, layout, 2.0)


def test_labelled_part_of_shards_is_the_first_ones():
    seconds = [
        sum(json.loads(line)["duration"] for line in (CORPUS / f"train/sharded_manifests/manifest_{n}.json").open())
        for n in range(4)
    ]
    for wanted, shards in ((seconds[0] / 3600, 1), (seconds[0] / 3600 + 0.01, 2), (sum(seconds) / 3600, 4)):
        found = open_corpus("embedded", wanted)
        assert found.labelled.hours == pytest.approx(sum(seconds[:shards]) / 3600)
        assert found.labelled.overrides[1].endswith(f"/train/audio__OP_0..{shards - 1}_CL_.tar")
        assert found.hours == pytest.approx(sum(seconds) / 3600)


def test_labelled_part_of_less_than_a_shard_is_unpacked(tmp_path):
    lines = [json.loads(line) for line in (CORPUS / "train/sharded_manifests/manifest_0.json").open()]
    labelled = open_corpus("embedded", 0.01).labelled
    write_labelled(labelled, tmp_path)
    written = [json.loads(line) for line in (tmp_path / "labelled.jsonl").read_text().splitlines()]
    seconds = [line["duration"] for line in written]
    assert sum(seconds) >= 36 > sum(seconds[:-1]) and labelled.hours == pytest.approx(sum(seconds) / 3600)
    assert [line["text"] for line in written] == [line["text"] for line in lines[: len(written)]]
    for line, source in zip(written, lines, strict=False):
        assert Path(line["audio_filepath"]).name == source["audio_filepath"]
        assert sf.info(line["audio_filepath"]).duration == pytest.approx(line["duration"], abs=0.01)
    assert sorted(path.name for path in (tmp_path / "labelled").iterdir()) == sorted(
        line["audio_filepath"] for line in lines[: len(written)]
    )


# --- resuming -----------------------------------------------------------------------------------------------------------


def with_stages(run: RunPlan, *stages: Stage) -> RunPlan:
    return replace(run, stages=stages)


def python(name: str, code: str, resumes: bool = False) -> Stage:
    """Makes a stage with a fast command; its result is the file ``<name>``."""
    return Stage(name, ("-c", code), f"{name}.txt", 1, resumes)


def test_finished_stages_are_not_redone_and_a_failed_one_is(smoke, tmp_path):
    """The second command overwrites nothing, like scripts/cluster_labels.py; files of a failed attempt are removed."""
    write = "import pathlib; p = pathlib.Path(r'$OUT/{0}.txt'); assert not p.exists(); p.write_text('x')"
    fails = "import sys, pathlib; print('no memory'); sys.exit(not pathlib.Path(r'$OUT/mended').exists())"
    codes = {"first": write, "second": f"{write}\n{fails}", "third": write}
    run = with_stages(smoke["birq"], *(python(name, code.replace("{0}", name)) for name, code in codes.items()))
    prepare_folder(run, tmp_path, overwrite=False)
    begun = []
    with pytest.raises(StageFailed, match=r"exit code 1\b(.|\n)*second\.log(.|\n)*no memory"):
        run_stages(run, tmp_path, 1, begun.append, threading.Event())
    assert [stage.name for stage in begun] == ["first", "second"]
    assert results.state(run, tmp_path, tmp_path / "none") == "partial"
    (tmp_path / "mended").touch()
    run_stages(run, tmp_path, 1, begun.append, threading.Event())
    assert [stage.name for stage in begun] == ["first", "second", "second", "third"]
    assert results.stages_done(run, tmp_path) == 3 and read_cost(tmp_path, "third").seconds > 0


def test_a_command_that_writes_nothing_is_a_failure(smoke, tmp_path):
    run = with_stages(smoke["birq"], python("first", "pass"))
    prepare_folder(run, tmp_path, overwrite=False)
    with pytest.raises(StageFailed, match=r"birq_seed0.*first\.txt"):
        run_stages(run, tmp_path, 1, lambda stage: None, threading.Event())


def test_two_processes_do_not_work_on_one_run(tmp_path):
    with lock_folder(tmp_path / "smoke" / "birq_seed0"):
        with lock_folder(tmp_path / "smoke" / "birq_seed1"):
            pass
        with (
            pytest.raises(ValueError, match=r"\bprocess\b.*birq_seed0.*--out"),
            lock_folder(tmp_path / "smoke" / "birq_seed0"),
        ):
            pass
    with lock_folder(tmp_path / "smoke" / "birq_seed0"):
        pass


def test_interruption_ends_the_command_and_its_time_is_kept(smoke, tmp_path):
    code = "import time, pathlib; p = pathlib.Path(r'$OUT/begun'); again = p.exists(); p.touch()\n"
    code += "again or time.sleep(600)\npathlib.Path(r'$OUT/first.txt').touch()"
    run = with_stages(smoke["birq"], python("first", code, resumes=True))
    prepare_folder(run, tmp_path, overwrite=False)
    stop = threading.Event()

    def stop_when_begun():
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=stop_when_begun).start()
    with pytest.raises(Interrupted):
        run_stages(run, tmp_path, 1, lambda stage: None, stop)
    before = read_cost(tmp_path, "first")
    assert not before.done and 0 < before.seconds < 60
    run_stages(run, tmp_path, 1, lambda stage: None, threading.Event())
    after = read_cost(tmp_path, "first")
    assert after.done and after.seconds > before.seconds and after.processor_seconds > before.processor_seconds


def test_a_sweep_goes_on_when_a_run_fails(smoke, tmp_path):
    """Two runs are in progress at a time. The results of the others are written, with the parameters of the encoder."""
    model = make_model()
    model.save_to(str(tmp_path / "small.nemo"))
    copies = "import shutil, pathlib; to = pathlib.Path(r'$OUT/untrained/untrained.nemo'); to.parent.mkdir(); "
    copies += f"shutil.copy(r'{tmp_path}/small.nemo', to)"
    stage = Stage("untrained", ("-c", copies), "untrained/untrained.nemo")
    settings = [replace(smoke["scratch"].setting, seed=seed) for seed in range(3)]
    runs = [with_stages(replace(smoke["scratch"], setting=setting), stage) for setting in settings]
    runs[0] = with_stages(runs[0], python("first", "raise SystemExit(1)"))
    for run in runs:
        prepare_folder(run, tmp_path / "out" / run.folder, overwrite=False)
    printed = io.StringIO()
    sweep = Sweep(tmp_path / "out", tmp_path / "results", 2, 1, False, Console(file=printed, width=200))
    assert sweep.execute(runs) == [runs[0]] and "failed scratch_seed0" in printed.getvalue()
    written = sorted((tmp_path / "results").rglob("*.json"))
    assert [path.name for path in written] == ["scratch_seed1.json", "scratch_seed2.json"]
    parameters = sum(parameter.numel() for parameter in model.encoder.parameters())
    assert {json.loads(path.read_text())["parameters"] for path in written} == {parameters}


def test_account_knows_processor_time_and_memory(smoke, tmp_path):
    """The work takes half a second and 100 MB in a process that the command starts; the memory of the tests is excluded."""
    work = "import time\nwhile time.process_time() < 0.5: pass"
    code = f"import subprocess, sys, time, pathlib; subprocess.run([sys.executable, '-c', {work!r}], check=True)\n"
    code += "big = bytearray(b'x') * 100_000_000; time.sleep(1); pathlib.Path(r'$OUT/first.txt').touch()"
    run = with_stages(smoke["birq"], python("first", code))
    prepare_folder(run, tmp_path, overwrite=False)
    run_stages(run, tmp_path, 1, lambda stage: None, threading.Event())
    account = read_cost(tmp_path, "first")
    assert 0.5 <= account.processor_seconds <= account.seconds * 2 and 0.1 < account.peak_memory_gb < 0.2


def test_a_folder_or_result_of_another_setting_is_not_used(smoke, tmp_path):
    run, other = smoke["birq"], smoke["best_rq"]
    path = tmp_path / "results" / run.result_file
    prepare_folder(run, tmp_path / "run", overwrite=False)
    prepare_folder(run, tmp_path / "run", overwrite=False)
    assert results.state(run, tmp_path / "run", path) == "to do"
    results.write({"schema": results.SCHEMA, "setting_hash": run.setting_hash}, path)
    assert results.state(run, tmp_path / "run", path) == "done"
    assert results.state(other, tmp_path / "run", path) == "other setting"
    with pytest.raises(ValueError, match=r"setting\.json.*--overwrite"):
        prepare_folder(other, tmp_path / "run", overwrite=False)
    prepare_folder(other, tmp_path / "run", overwrite=True)
    (tmp_path / "run" / "setting.json").write_text("{")
    with pytest.raises(ValueError, match=r"run/setting\.json.*line 1 column 2"):
        prepare_folder(other, tmp_path / "run", overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"/mine\b.*--out"):
        prepare_folder(run, tmp_path / "mine", overwrite=True)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"birq_seed0\.json.*line 1 column 2"):
        results.state(run, tmp_path / "run", path)


def test_the_setting_is_all_that_decides_the_result(smoke, corpus):
    run = smoke["birq"]
    assert plan_run(run.setting, corpus).setting_hash == run.setting_hash
    seed = plan_run(replace(run.setting, seed=1), corpus)
    steps = plan_run(replace(run.setting, finetune=replace(run.setting.finetune, steps=17)), corpus)
    labelled = plan_run(run.setting, open_corpus("embedded", 0.3))
    assert len({one.setting_hash for one in (run, seed, steps, labelled)}) == 4


# --- does it fit --------------------------------------------------------------------------------------------------------


def test_memory_formula_is_near_what_was_measured():
    """Peaks of docs/results, which hold the libraries alone where a run also has loaders: those are taken off both."""
    widths = {"middle": (8, 256), "birq_conformer_tiny": (4, 128)}
    for name, (layers, width) in widths.items():
        measured = json.loads((ROOT / f"docs/results/step_{name}_cpu_32.json").read_text())
        birq = measured["variants"]["BiRQ"]
        config = {"model": {"encoder": {"n_layers": layers, "d_model": width}}, "trainer": {"precision": 32}}
        found = memory_bytes(birq["trained_parameters"], config, measured["batch"]["seconds"]) - resources.PROCESS_BYTES
        assert found == pytest.approx(birq["peak"] - birq["libraries"], rel=0.05)


def needs(**changes) -> Estimate:
    return replace(Estimate(parameters=2_000_000, step_seconds=1.0, hours=1.0, memory_gb=1.5, disk_gb=0.1), **changes)


@pytest.mark.parametrize(
    ("budget", "estimate", "said"),
    [
        (Budget(), {}, []),
        (
            Budget(),
            {"memory_gb": 7.0},
            [r"2 x 7.0 GB .* 10.0 GB are free; --jobs 1 or batches of 4\d\d s in place of 15 .* fit"],
        ),
        (Budget(), {"memory_gb": 70.0}, [r"free; batches of 4\d\d s in place of 15"]),
        (Budget(), {"disk_gb": 1e9}, ["give another --out"]),
        (Budget(max_hours=2.0), {"hours": 8.0}, ["4 runs take about 8.0 h .* 1 of them would fit"]),
        (Budget(max_hours=2.0), {"hours": 8.0, "disk_gb": 1e9}, ["checkpoints", "take about 8.0 h"]),
    ],
)
def test_what_does_not_fit_is_said_with_what_would(smoke, tmp_path, monkeypatch, budget, estimate, said):
    monkeypatch.setattr(resources, "free_memory_bytes", lambda device: 10e9)
    found = find_problems(budget, needs(**estimate), list(smoke.values()), 2, tmp_path)
    assert len(found) == len(said)
    for problem, pattern in zip(found, said, strict=True):
        assert re.search(pattern, problem), problem


def test_estimate_counts_the_configured_model(smoke, tmp_path):
    """It counts the parameters of the model and the hours of all stages; the second call reads the timing from the file."""
    runs = [smoke["birq"], smoke["scratch"]]
    first = resources.estimate(runs, 1, tmp_path / "estimate.json")
    model = BiRQModel(compose_model(smoke["birq"]))
    assert first.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert 0 < first.step_seconds < 60 and first.hours * 3600 > 6 * resources.START_SECONDS
    assert resources.estimate(runs, 1, tmp_path / "estimate.json") == first
    before = (tmp_path / "estimate.json").read_text()
    half = copy.deepcopy(runs[0].config) | {"trainer": runs[0].config["trainer"] | {"precision": "bf16-mixed"}}
    resources.estimate([replace(runs[0], config=half)], 1, tmp_path / "estimate.json")
    assert (tmp_path / "estimate.json").read_text() != before


def compose_model(run: RunPlan) -> DictConfig:
    return OmegaConf.create(run.config["model"] | {"train_ds": None, "validation_ds": None})


# --- results ------------------------------------------------------------------------------------------------------------


def test_a_result_reads_back_as_it_was(tmp_path):
    found = {
        "schema": 1, "method": "birq", "overrides": ["a=[b,c]"], "labels": [], "scores": None,
        "pretraining": {"curves": {"train_loss": results.thin([(0, 1.23456789), (1, float(1))])}, "alarms": []},
        "commands": ["python ä"], "finetuning": {},
    }  # fmt: skip
    results.write(found, tmp_path / "deep" / "one.json")
    assert json.loads((tmp_path / "deep" / "one.json").read_text()) == found
    assert found["pretraining"]["curves"]["train_loss"] == [[0, 1.2346], [1, 1.0]]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one.json"]


def test_thinned_curves_keep_both_ends():
    points = [(step, float(step)) for step in range(0, 1000, 3)]
    thinned = results.thin(points, 40)
    assert len(thinned) == 40 and thinned[0] == [0, 0.0] and thinned[-1] == [999, 999.0]
    gaps = [b[0] - a[0] for a, b in pairwise(thinned)]
    assert min(gaps) >= 24 and max(gaps) <= 27
    assert results.thin(points[:40], 40) == [[step, value] for step, value in points[:40]]


def test_no_folder_of_the_machine_is_left_in_a_result(smoke, tmp_path):
    places = {str(CORPUS): "$CORPUS", str(tmp_path): "$OUT"}
    found = results._without_places({"a": [f"x={CORPUS}/train", {"b": f"{tmp_path}/y"}], "c": 1}, places)
    assert found == {"a": ["x=$CORPUS/train", {"b": "$OUT/y"}], "c": 1}


def test_step_is_read_from_both_kinds_of_log(tmp_path):
    log = tmp_path / "log"
    assert last_step(log) is None
    log.write_text("[NeMo I 2026-01-01] step 0 | anchor 5.5\n[NeMo I] step 19 | anchor 5.4 (unigram 4.6)\n")
    assert last_step(log) == 20
    log.write_text("Epoch 0: 100%|###| 4/4 [00:01<00:00]\rEpoch 2:  50%|##  | 2/4 [00:01<00:01, 1.9it/s]\r")
    assert last_step(log) == 10
