"""Worker of tests/integration/test_distributed.py: training steps of a small model, in one process or in two gloo processes.

tests.helpers.ddp_worker --devices 1|2 --out FOLDER, once for each rank

Each rank gets its half of the utterances; a single process gets them all. Masks depend on the utterance alone and the Gumbel
noise is off, so that both runs see the same; everything else is the real thing.
"""

import argparse
from pathlib import Path

import lightning.pytorch as pl
import torch

import nemo_birq.labels.enhanced
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.monitoring import checkpoint_state
from nemo_birq.monitoring.callback import HealthMonitor
from nemo_birq.monitoring.finite_check import FiniteCheck
from nemo_birq.monitoring.label_churn import Churn
from nemo_birq.utils.rng import step_seed
from tests.helpers.models import make_batch, make_model

QUIET = {
    "encoder__conv_norm_type": "layer_norm",  # batch normalization has statistics for each rank
    "encoder__dropout": 0.0,
    "encoder__dropout_pre_encoder": 0.0,
    "encoder__dropout_emb": 0.0,
    "encoder__dropout_att": 0.0,
}
CASES = {
    "birq": {},
    "whiten": {"birq__labels__normalization": "whiten"},
    "tracked": {"birq__labels__codebook": "tracked"},
    "fitted": {
        "birq__anchor__projection": "pca",
        "birq__anchor__codes": "kmeans",
        "birq__anchor__fit_steps": 1,
        "birq__anchor__fit_frames": 1000,
    },
    "best_rq": {"birq__loss__enhanced_weight": 0.0},
    "separate_before_start": {"birq__loss__head": "separate", "birq__loss__start_step": 1000},
    "rank_without_masks": {},
}


class Record(pl.Callback):
    """Keeps the gradients of the last step as the optimizer gets them."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}


def mask_by_length(lengths, num_frames, _generator, masked=True):
    mask = torch.zeros(len(lengths), num_frames, dtype=torch.bool)
    for row, length in zip(mask, lengths, strict=True):
        start = int(length) % 7
        row[start : min(int(length), start + int(length) // 2)] = masked
    return mask


def look_at_labels(rank: int) -> list[float | None]:
    churn, device = Churn(), torch.device("cpu")
    looks = [[1, 2, 3, 4], [1, 2, 8, 9], [0, 0, 0, 0]] if rank == 0 else [[5, 6], [5, 6], None]
    return [churn.look(None if look is None else torch.tensor(look).unsqueeze(1), device) for look in looks]


def find_broken_loss(rank: int) -> str:
    """Breaks the loss on rank 1 at step 3, and therefore, through the gradients, on rank 0 at step 4."""
    check = FiniteCheck()
    for step in range(6):
        loss = torch.tensor(float("nan") if step >= 4 - rank else 1.0)
        check.remember(step, SpeechBatch(torch.zeros(1, 1), torch.ones(1), ["broken" if rank == 1 else "fine"]), loss)
    try:
        check.look()
    except FloatingPointError as error:
        return str(error)
    return ""


def keep_state(model, rank: int) -> list[dict]:
    """Returns the state of the health monitor in a checkpoint, and that of a monitor that resumes from it."""
    model.monitor.churn["train"].last = torch.full((2 + rank, 1), rank)
    state = checkpoint_state.collect(model.monitor)
    resumed = HealthMonitor(model.birq, model.cfg.preprocessor.sample_rate)
    checkpoint_state.restore(resumed, state, model.device)
    return [state, checkpoint_state.collect(resumed)]


def run(case: str, devices: int, out: Path) -> None:
    model = make_model(**(QUIET | CASES[case]))
    if case == "tracked":  # at work already: the frames at which codes begin are drawn by each rank among its own
        labeler = model.enhanced_labeler
        labeler.tracking.shares.fill_(1 / labeler.tracking.shares.shape[1])
        labeler.tracking.tracked_batches.fill_(1000)
        labeler.tracking.sums.copy_(labeler.quantizer.codebook * labeler.tracking.shares.unsqueeze(2))
    batch = make_batch((2.0, 1.0, 1.5, 0.6))
    unmasked = case == "rank_without_masks"

    def draw(lengths, num_frames, generator):
        mask = mask_by_length(lengths, num_frames, generator)
        # In the joined batch the last two utterances are those of rank 1.
        silent = torch.arange(len(lengths)) >= 2 if devices == 1 else torch.full((len(lengths),), model.global_rank == 1)
        return mask & ~silent.unsqueeze(1) if unmasked else mask

    real_draw, real_noise = model.masking.draw, nemo_birq.labels.enhanced.gumbel_noise
    model.masking.draw = draw
    model.masking.fill = lambda features, mask, _: features.masked_fill(mask.unsqueeze(1), 0.1)
    nemo_birq.labels.enhanced.gumbel_noise = lambda like, _: torch.zeros_like(like)

    class Loader(torch.utils.data.IterableDataset):
        def __iter__(self):
            rows = slice(None) if devices == 1 else slice(2 * model.global_rank, 2 * model.global_rank + 2)
            lengths = batch.signal_length[rows]
            for _ in range(2):  # the first step looks at the labels also before they count, the second does not
                yield SpeechBatch(batch.signal[rows, : int(lengths.max())], lengths, batch.ids[rows])

    record = Record()
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=0.01)
    steps = 2 if case == "separate_before_start" else 1
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_steps=steps, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[record],
        use_distributed_sampler=False, log_every_n_steps=100,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(Loader(), batch_size=None))
    rank = trainer.global_rank
    generator = torch.Generator().manual_seed(step_seed(model.birq.seed, rank, "train", 0, 0))
    result = {
        "churn": look_at_labels(rank),
        "not_finite": find_broken_loss(rank),
        "state": keep_state(model, rank),
        "gradients": record.gradients,
        "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
        "fixed": {n: b for n, b in model.named_buffers() if n.endswith(("projection", "codebook"))},
        "running_mean": model.enhanced_labeler.normalization.running_mean,
        "codebook": model.enhanced_labeler.quantizer.codebook,
        "mask": real_draw(torch.tensor([100]), 100, generator),
        "noise": real_noise(torch.empty(8), generator),
    }
    torch.save(result, out / f"{case}-{devices}-{rank}.pt")
    nemo_birq.labels.enhanced.gumbel_noise = real_noise


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--devices", type=int)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    for name in CASES:
        run(name, args.devices, args.out)
