"""The GPU day in miniature on a CPU: all its commands run, and a part that fails or hangs does not affect the others."""

import json
import runpy
import sys
import time
from argparse import Namespace

import pytest

from tests.helpers.forked import run_forked
from tests.helpers.paths import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_day
import step_cost
import training_speed
from gpu_day import Part

pytestmark = pytest.mark.system


def parts(out, device="cpu", devices=1, small=True) -> dict[str, Part]:
    return {part.name: part for part in gpu_day.parts_of(Namespace(device=device, devices=devices, small=small, out=out))}


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_every_benchmark_runs(tmp_path, monkeypatch):
    """They run in this process, which has imported everything. Those of one script differ only in their model."""
    found = parts(tmp_path)

    def here(names, setting, done=None):
        # This process has had its memory before: all of it counts.
        return {name: step_cost.cost_alone(name, setting) | {"libraries": 0} for name in names}

    monkeypatch.setattr(step_cost, "costs", here)  # a process for each variant is tests/integration/test_step_benchmark.py
    for name in ("step_large", "profile_large", "levers_large"):
        arguments = found[name].command[1:]
        if name == "levers_large":  # compiling takes a minute
            arguments = [*arguments, "--levers", "use_pytorch_sdpa", "activation checkpointing"]
        monkeypatch.setattr(sys, "argv", arguments)
        runpy.run_path(arguments[0], run_name="__main__")
        assert json.loads((tmp_path / f"{name}.json").read_text())["machine"], name
    levers = json.loads((tmp_path / "levers_large.json").read_text())["levers"]
    assert len(levers) == 3 and all(row["cosine"] > 0.9999 for row in levers.values())
    assert levers["activation checkpointing"]["kept"] < 0.8 * levers["as it is"]["kept"]
    names = {part.command[1] for part in found.values()}
    assert names == {str(ROOT / "benchmarks" / f"{script}.py") for script in
                     ("gpu_day", "step", "training_speed", "step_profile", "levers", "startup")} | {"-m"}  # fmt: skip


def test_training_speed_reads_the_training(tmp_path):
    (_, script, *arguments) = parts(tmp_path)["training_large"].command
    assert script.endswith("training_speed.py")
    args = training_speed.arguments().parse_args(arguments)
    _, _, *overrides = training_speed.command_of(args, tmp_path / "run")
    done = run_forked(["pretrain", *overrides], entry="nemo_birq.pretraining.command:pretrain")
    assert done.returncode == 0, done.stderr[-3000:]
    result = training_speed.read_result(tmp_path / "run", done.stdout + done.stderr)
    assert 0 < result["share_waiting_for_data"] < 1 and 0 < result["mfu"] < 1 and result["audio_hours_per_hour"] > 0
    with pytest.raises(ValueError, match=r"(?s)no profile.*the end"):
        training_speed.read_result(tmp_path / "run", "the end")


def test_several_devices_train_under_torchrun(tmp_path):
    found = parts(tmp_path, "cuda", devices=4, small=False)
    assert list(found) == ["environment", "training_155m_1", "training_155m_4", "training_large_4", "training_large_1"]
    command = found["training_155m_4"].command
    args = training_speed.arguments().parse_args(command[2:])
    started = training_speed.command_of(args, tmp_path)
    assert started[1:3] == ["-m", "torch.distributed.run"] and "--nproc-per-node=4" in started
    assert {"trainer.devices=4", "trainer.accelerator=gpu", "trainer.precision=bf16-mixed"} <= set(started)


def test_the_tests_come_first_and_the_limits_fit_a_lease(tmp_path):
    found = list(parts(tmp_path, "cuda", small=False).values())
    assert [part.name for part in found[:3]] == ["environment", "tests", "step_large"]
    assert "--fill" in found[2].command and "bf16-mixed" in found[2].command
    assert sum(part.limit for part in found[:4]) <= 9.5 * 60  # the most important ones, at their worst


def test_a_part_that_fails_or_hangs_costs_no_other(tmp_path, capsys):
    hangs = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    days = [Part("fails", python("raise SystemExit(3)"), 20), Part("hangs", python(hangs), 1),
            Part("works", python("print('hello')"), 20)]  # fmt: skip
    began = time.monotonic()
    assert gpu_day.run_all(days, tmp_path, 600) == 1
    assert time.monotonic() - began < 20
    day = json.loads((tmp_path / "day.json").read_text())
    assert [day[part.name]["status"] for part in days] == ["failed with status 3", "stopped after 1 s", "done"]
    assert (tmp_path / "works.log").read_text() == "hello\n"
    days[0] = days[0]._replace(command=python(""))
    days[2] = days[2]._replace(command=python("raise SystemExit(1)"))  # is not run again
    assert gpu_day.run_all([days[0], days[2]], tmp_path, 600) == 0
    assert "works: done before" in capsys.readouterr().out


def test_parts_without_time_are_not_begun(tmp_path):
    day = [Part("late", python(""), 20)]
    assert gpu_day.run_all(day, tmp_path, 5) == 1
    assert json.loads((tmp_path / "day.json").read_text()) == {"late": {"status": "not begun: no time left"}}
    assert gpu_day.run_all(day, tmp_path, 60) == 0


def test_the_environment_is_described(tmp_path, monkeypatch, capsys):
    out = tmp_path / "environment.json"
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", "--environment", str(out), "--device", "cpu"])
    gpu_day.main()
    found = json.loads(out.read_text())
    assert found["nemo_toolkit"].startswith("3.") and found["flops"]["float32"] > 1e8
    monkeypatch.setattr(sys, "argv", ["gpu_day.py", "--parts", "step_huge", "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu_day.main()
    assert "--parts step_huge: unknown; there are environment, tests, step_large" in capsys.readouterr().err
