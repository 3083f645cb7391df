"""The terminal of a run: its own lines, one bar over all steps, and the first lines."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm

import nemo_birq
from nemo_birq.command_line.quiet import BesideBars, matters
from nemo_birq.pretraining.introduction import lines
from nemo_birq.runs.progress_bar import RunProgressBar, show_whole_run
from tests.helpers.models import make_model, train

pytestmark = pytest.mark.unit
OWN = str(Path(nemo_birq.__file__).parent / "monitoring" / "callback.py")
OTHER = "/site-packages/nemo/core/classes/modelPT.py"


def record(path: str, level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("nemo_logger", level, path, 1, message, None, None)


@pytest.mark.parametrize(
    ("path", "level", "message", "shown"),
    [
        (OWN, logging.INFO, "step 9 | anchor 5.1", True),
        (OWN, logging.INFO, "Hydra config: name: x", False),
        (OTHER, logging.INFO, "Optimizer config = AdamW", False),
        (OTHER, logging.INFO, "Restoring states from the checkpoint path at x.ckpt", True),
        (OTHER, logging.WARNING, "There were no checkpoints found in checkpoint_dir or no folder", False),
        (OTHER, logging.WARNING, "the loss is not finite", True),
        (OTHER, logging.ERROR, "out of memory", True),
    ],
)
def test_own_lines_and_warnings_that_help_are_shown(path, level, message, shown):
    assert matters(record(path, level, message)) == shown


def test_a_line_stands_alone_beside_a_bar(capsys):
    handler = BesideBars(sys.stdout)
    with tqdm(total=3, file=sys.stdout) as bar:
        bar.update(1)
        handler.emit(record(OWN, logging.INFO, "a line of the log"))
        bar.update(1)
    assert "\na line of the log\n" in capsys.readouterr().out.replace("\r", "\n")


class Shown(RunProgressBar):
    """Records the position and length of the bar after each batch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, *args) -> None:
        super().on_train_batch_end(*args)
        self.seen.append((self.train_progress_bar.n, self.train_progress_bar.total))


def test_the_bar_goes_over_all_steps_of_the_run_also_of_a_resumed_one(tmp_path):
    options = {"limit_train_batches": 2, "enable_progress_bar": True}
    first = Shown()
    train(make_model(), tmp_path / "first", 4, callbacks=[first], **options).save_checkpoint(tmp_path / "x.ckpt")
    assert first.seen == [(1, 4), (2, 4), (3, 4), (4, 4)]  # two epochs
    again = Shown()
    train(make_model(), tmp_path / "again", 6, callbacks=[again], ckpt_path=str(tmp_path / "x.ckpt"), **options)
    assert again.seen == [(5, 6), (6, 6)] and again.train_progress_bar.initial == 4
    assert again.train_progress_bar.postfix.startswith("anchor=")
    assert not any(name in again.train_progress_bar.postfix for name in ("v_num", "timing"))


def test_a_file_gets_few_states_of_the_bar(tmp_path, capsys):
    train(make_model(), tmp_path, 12, callbacks=[RunProgressBar()], limit_train_batches=12, enable_progress_bar=True)
    printed = capsys.readouterr().out.replace("\r", "\n")
    states = [line for line in printed.splitlines() if "/12 [" in line]
    assert {state.split("/12 [")[0].split()[-1] for state in states} == {"0", "12"}
    assert "Validation" not in printed


def test_only_lightnings_own_bar_is_replaced(tmp_path):
    trainer = train(make_model(), tmp_path, 1)
    trainer.callbacks.append(TQDMProgressBar(refresh_rate=7))
    own = Shown()
    trainer.callbacks.append(own)
    show_whole_run(trainer, 40)
    replaced, kept = trainer.callbacks[-2:]
    assert type(replaced) is RunProgressBar and kept is own
    assert (replaced.refresh_rate, replaced.num_steps) == (7, 40)


def test_a_bar_over_batches_that_cannot_be_counted_has_the_planned_length(tmp_path):
    """Fine-tuning reads single files through NeMo's Lhotse loader, which has no length."""

    class Uncounted(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, _):
            return self.layer(batch.float()[None]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    bar = RunProgressBar(num_steps=6)
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, callbacks=[bar], default_root_dir=tmp_path, **options)
    trainer.fit(Module(), torch.utils.data.DataLoader(Uncounted(), batch_size=1))
    assert (bar.train_progress_bar.n, bar.train_progress_bar.total) == (6, 6)


def test_the_first_lines_say_what_is_trained(tmp_path):
    model = make_model(birq__quantizer__num_codes=24, birq__loss__start_step=3, birq__loss__ramp_steps=4)
    trainer = train(model, tmp_path, 1)
    model._train_dl = [None] * 4
    text = "\n".join(lines(model, trainer, tmp_path))
    size = sum(p.numel() for p in model.encoder.parameters()) / 1e6
    for part in (
        f"nemo_birq {nemo_birq.__version__}, NeMo ",
        f"{len(model.encoder.layers)} layers x {model.encoder.d_model}; {size:.1f} M",
        "anchor, 1 x 24 codes, random projection and random codes", f"enhanced, layer {model.layer}", "from step 7 on",
        "1 steps (0.25 epochs)", str(tmp_path),
    ):  # fmt: skip
        assert part in text, part
    assert "no enhanced labels (BEST-RQ)" in "\n".join(lines(make_model(birq__loss__enhanced_weight=0), trainer, None))
