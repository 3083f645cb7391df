"""A run as a process: the checkpoint from which it resumes, its lock, and its signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from nemo_birq.runs.checkpoints import settle
from nemo_birq.runs.lock import exclusive
from nemo_birq.runs.signals import Signals, shield_workers

pytestmark = pytest.mark.unit
NAME = "a"


def save(path: Path, step: int) -> Path:
    torch.save({"global_step": step, "state_dict": {"weight": torch.arange(100.0)}}, path)
    return path


def flip(path: Path) -> None:
    """Changes a byte of the weights."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.arange(100.0).numpy().tobytes()) + 7] ^= 0x40
    path.write_bytes(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_without_checkpoints_there_is_nothing_to_go_on_from(tmp_path):
    assert settle(tmp_path, NAME, tmp_path, False) is None
    assert settle(tmp_path / "missing", NAME, tmp_path, False) is None


def test_of_two_last_checkpoints_the_newer_one_stays(tmp_path):
    """The process was killed before the older one was deleted, which NeMo treats as an error."""
    newer = save(tmp_path / "a--step=16-last.ckpt", 16)
    save(tmp_path / "a--step=8-last.ckpt", 8)  # later on the clock: steps count, not times
    best = save(tmp_path / "a--val_loss=3-step=8.ckpt", 8)
    assert settle(tmp_path, NAME, tmp_path, False) == newer
    assert names(tmp_path) == sorted([newer.name, best.name])


def test_marker_of_an_unfinished_checkpoint_does_not_condemn_a_whole_one(tmp_path):
    whole = save(tmp_path / "a--step=8-last.ckpt", 8)
    (tmp_path / "a--step=8-last-unfinished").touch()
    (tmp_path / "a--step=16-last-unfinished").touch()
    (tmp_path / "a--step=16-last.ckpt.part").write_bytes(b"half")
    assert settle(tmp_path, NAME, tmp_path, False) == whole
    assert names(tmp_path) == [whole.name]


@pytest.mark.parametrize("damage", [flip, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * 999),
                                    lambda path: path.write_bytes(path.read_bytes()[:500])])  # fmt: skip
def test_damaged_last_checkpoint_falls_back_to_the_one_before_of_any_name(tmp_path, damage):
    best = save(tmp_path / "a--val_loss=3-step=8.ckpt", 8)
    last = save(tmp_path / "a--step=16-last.ckpt", 16)
    damage(last)
    copy = settle(tmp_path, NAME, tmp_path, False)
    assert copy.read_bytes() == best.read_bytes()
    assert names(tmp_path) == sorted([f"{last.name}.damaged", best.name, copy.name])


@pytest.mark.parametrize("suffixes", [[".ckpt"], [".ckpt", "-EMA.ckpt"]])
def test_best_checkpoint_is_copied_where_the_last_one_of_its_step_was_not_saved(tmp_path, suffixes):
    """The process was killed between the two: Lightning would neither save the last one nor remove the best one later."""
    for suffix in suffixes:
        save(tmp_path / f"a--step=8-last{suffix}", 8)
        save(tmp_path / f"a--val_loss=3-step=16{suffix}", 16)
    assert settle(tmp_path, NAME, tmp_path, len(suffixes) == 2) == tmp_path / "a--step=16-last.ckpt"
    assert names(tmp_path) == sorted(
        f"a--{kind}{suffix}" for kind in ("step=16-last", "val_loss=3-step=16") for suffix in suffixes
    )


def test_nothing_readable_is_an_error_that_names_folder_and_files(tmp_path):
    save(tmp_path / "a--step=16-last.ckpt", 16).write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"(?s)no checkpoint in .*a--step=16-last\.ckpt.*another name="):
        settle(tmp_path, NAME, tmp_path, False)


def test_checkpoint_of_a_requeued_job_is_found(tmp_path):
    """Lightning saves it beside the folder of checkpoints, from where exp_manager would move it away."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save(folder / "a--step=8-last.ckpt", 8)
    save(tmp_path / "hpc_ckpt_1.ckpt", 11)
    assert settle(folder, NAME, tmp_path, False) == folder / "hpc_ckpt_1.ckpt"
    assert names(folder) == ["hpc_ckpt_1.ckpt"]


def test_checkpoint_counts_only_together_with_its_average(tmp_path):
    save(tmp_path / "a--step=8-last.ckpt", 8)
    save(tmp_path / "a--step=8-last-EMA.ckpt", 8)
    alone = save(tmp_path / "a--step=16-last.ckpt", 16)
    assert settle(tmp_path, NAME, tmp_path, True) == tmp_path / "a--step=8-last.ckpt"
    assert not alone.exists()


def test_second_run_in_a_folder_is_refused_until_the_first_one_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr("nemo_birq.runs.lock.PATIENCE", 0.1)
    program = (
        "import sys, time; from pathlib import Path; from nemo_birq.runs.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    first = subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=rf"process {first.pid} on .* since .*another name="), exclusive(tmp_path):
        pass
    first.kill()
    first.wait()
    with exclusive(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()


def in_child(act) -> int:
    """Returns the exit code of a process in which ``act`` runs."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            act()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_signal_ends_a_process_that_has_nothing_to_save(number, code):
    def act():
        with Signals().handled():
            os.kill(os.getpid(), number)
            time.sleep(5)

    assert in_child(act) == code


def test_deferred_signal_is_kept_and_a_second_one_ends_at_once(monkeypatch):
    monkeypatch.setattr("nemo_birq.runs.signals.ONE_SIGNAL", 0.05)

    def act():
        signals = Signals()
        with signals.handled():
            signals.deferred = True
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)  # within the same moment: the same one
            if signals.received != signal.SIGINT:
                os._exit(1)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    assert in_child(act) == 130


def test_handlers_of_before_return():
    before = signal.getsignal(signal.SIGTERM)
    with Signals().handled():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_workers_outlast_a_signal_to_the_group_and_end_with_their_process():
    loader = DataLoader(range(100), num_workers=1, worker_init_fn=torch.manual_seed)
    shield_workers(loader)
    batches = iter(loader)
    assert next(batches) == torch.tensor([0])
    worker = batches._workers[0]
    for name in ("TERM", "INT", "HUP"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert [int(batch) for batch in batches] == list(range(1, 100))
    batches = iter(loader)
    next(batches)
    worker = batches._workers[0]
    worker.terminate()  # the signal of the process that it belongs to
    worker.join(timeout=20)
    assert worker.exitcode == 0
