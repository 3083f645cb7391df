"""Information in enhanced labels without a gradient, with the paper's gradient, and with one corrected for the prior.

    python -m benchmarks.label_gradient none --out docs/results/label_gradient.json
    python -m benchmarks.label_gradient plain --out docs/results/label_gradient.json
    python -m benchmarks.label_gradient corrected --out docs/results/label_gradient.json

Each command trains the tiny configuration on the embedded corpus, measures its enhanced labels on the training set, and adds
a row to the file. The gradient of F with respect to a label is -log p, which favours codes that the head finds probable for
any frame. ``corrected`` is the gradient of the mutual information of label and context instead: -log(p / m), where m is the
running mean of the labels.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from nemo_birq import BiRQModel
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.evaluation.label_quality.evaluation import phones_of_frames
from nemo_birq.evaluation.label_quality.pnmi import joint_counts, score_labels
from nemo_birq.evaluation.label_quality.utterances import Utterances, read_utterances
from nemo_birq.labels.enhanced import EnhancedTargets, Selection
from nemo_birq.labels.statistics import entropy, histogram
from nemo_birq.losses import fused_cross_entropy
from nemo_birq.modules.frame_times import encoder_times
from nemo_birq.utils.files import read_json, write_json
from nemo_birq.utils.terminal import Terminal

ROOT = Path(__file__).parents[1]
CORPUS = ROOT / "tarred_manifests" / "train"
LR, WARMUP, BATCH_SECONDS, LAST = 1e-3, 50, 20.0, 50
"""Learning rate, steps of its warm-up, audio of a batch, and the last steps over which losses are averaged."""
MOMENTUM = 0.9
"""Momentum of the running mean of the labels, over batches."""
LOUDNESS_LEVELS = 8
"""Quantiles of the energy of a frame."""
GRADIENTS = {"none": 0.0, "plain": 1.0, "corrected": 1.0}
console = Terminal()


def build(gradient: str) -> BiRQModel:
    """Returns the tiny model with the default labels, w1 from step 75 on, and the factor of the gradient."""
    overrides = [
        "enhanced_start_step=75",
        "enhanced_ramp_steps=50",
        f"model.birq.labels.label_gradient={GRADIENTS[gradient]}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", overrides=overrides)
    cfg.model.train_ds = cfg.model.validation_ds = None
    return BiRQModel(cfg.model)


def corrected_gradient(num_codes: int) -> Callable[[Selection, Tensor, EnhancedTargets, int], Tensor]:
    """Returns the gradient of one codebook's units with -log(p / m) for -log p."""
    marginal = torch.full((num_codes,), 1 / num_codes)
    plain = fused_cross_entropy._of_units

    def of_units(selection: Selection, log_probs: Tensor, targets: EnhancedTargets, book: int) -> Tensor:
        marginal.mul_(MOMENTUM).add_(selection.soft.mean(0), alpha=1 - MOMENTUM)
        return plain(selection, log_probs - marginal.clamp(min=1e-8).log(), targets, book)

    return of_units


def load(utterances: Utterances, sample_rate: int) -> dict[str, Tensor]:
    """Returns the signal of each utterance by name."""
    signals = {}
    for batch in utterances.speech.load(sample_rate):
        for name, signal, length in zip(batch.ids, batch.signal, batch.signal_length.tolist(), strict=True):
            signals[Path(name).stem] = signal[:length].clone()
    return signals


def as_batch(names: list[str], signals: dict[str, Tensor]) -> SpeechBatch:
    chosen = [signals[name] for name in names]
    lengths = torch.tensor([len(signal) for signal in chosen])
    return SpeechBatch(torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True), lengths, names)


def train(model: BiRQModel, signals: dict[str, Tensor], steps: int) -> dict[str, float]:
    """Trains with AdamW, and returns the means of the last steps: losses and unigram entropy in nats."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.98), weight_decay=1e-3)
    rng, names = np.random.default_rng(0), sorted(signals)
    samples = BATCH_SECONDS * model.sample_rate
    losses, mass = [], []
    for step in range(steps):
        chosen: list[str] = []
        while sum(len(signals[name]) for name in chosen) < samples:
            chosen.append(names[rng.integers(len(names))])
        optimizer.param_groups[0]["lr"] = LR * min(1, (step + 1) / WARMUP)
        generator = torch.Generator().manual_seed(step)
        observed, batch = step >= steps - LAST, as_batch(chosen, signals)
        found = model.losses(batch, model.schedule.at(step), generator, observe_labels=observed, over_ranks=False)
        optimizer.zero_grad()
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if observed:
            health = found.health["found"]
            losses.append((float(health.anchor) / len(health.nearest), float(health.enhanced) / len(health.nearest)))
            mass.append(health.label_mass[0])
        if (step + 1) % 50 == 0:
            console.print(f"step {step + 1} of {steps}")
    anchor, enhanced = np.mean(losses, axis=0)
    unigram = float(entropy(torch.stack(mass).sum(0, keepdim=True)))
    return {"anchor_loss": anchor, "enhanced_loss": enhanced, "enhanced_unigram_entropy": unigram,
            "learned_nats": unigram - enhanced}  # fmt: skip


@torch.no_grad()
def measure(model: BiRQModel, utterances: Utterances, signals: dict[str, Tensor]) -> dict[str, float]:
    """Returns the information of all labels about phone, speaker and loudness above chance, and their rate of change."""
    model.eval()
    hop = round(model.cfg.preprocessor.window_stride * model.sample_rate) * model.subsampling
    codes, speakers, energies, repeated, counts = [], [], [], [], {}
    identities = sorted({line["speaker"] for line in utterances.lines.values()})
    for name, signal in signals.items():
        labels = model.extract_labels(signal[None], torch.tensor([len(signal)]))
        found = labels.enhanced[0, : int(labels.lengths[0]), 0].numpy()
        counts[name] = len(found)
        codes.append(found)
        repeated.append(found[1:] == found[:-1])
        speakers.append(np.full(len(found), identities.index(utterances.lines[name]["speaker"])))
        padded = torch.nn.functional.pad(signal, (hop // 2, len(found) * hop))[: len(found) * hop]  # around each middle
        energies.append(padded.view(-1, hop).square().mean(1).clamp(min=1e-10).log().numpy())
    labels, energy = np.concatenate(codes), np.concatenate(energies)
    levels = np.searchsorted(np.quantile(energy, np.arange(1, LOUDNESS_LEVELS) / LOUDNESS_LEVELS), energy)
    names = sorted({item.symbol for items in utterances.alignments.phones.values() for item in items})
    phones = phones_of_frames(utterances, counts, encoder_times(model), names)
    known = {"phone": (phones, len(names)), "speaker": (np.concatenate(speakers), len(identities)),
             "loudness": (levels, LOUDNESS_LEVELS)}  # fmt: skip
    num_codes = model.birq.quantizer.num_codes
    perplexity = entropy(histogram(torch.from_numpy(labels)[:, None], num_codes)).exp()
    result = {"frames": len(labels), "perplexity": float(perplexity)}
    for name, (values, number) in known.items():
        inside = values >= 0
        scored = score_labels(joint_counts(values[inside], labels[inside], number, num_codes))
        result[f"{name}_above_chance"] = scored.above_chance
    return result | {"equal_to_previous_frame": float(np.concatenate(repeated).mean())}


@click.command(help=__doc__)
@click.argument("gradient", type=click.Choice(list(GRADIENTS)))
@click.option("--steps", type=int, default=300, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the weights.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to which the row is added.")
def main(gradient: str, steps: int, seed: int, out: Path | None) -> None:
    torch.manual_seed(seed)
    model = build(gradient)
    utterances = read_utterances(str(CORPUS), str(CORPUS / "phones.ctm"))
    signals = load(utterances, model.sample_rate)
    change: AbstractContextManager = nullcontext()
    if gradient == "corrected":
        change = patch.object(fused_cross_entropy, "_of_units", corrected_gradient(model.birq.quantizer.num_codes))
    with change:
        trained = train(model, signals, steps)
    row = {"gradient": gradient, "steps": steps, "seed": seed} | {
        key: round(value, 3) for key, value in (trained | measure(model, utterances, signals)).items()
    }
    console.print(row)
    if out is not None:
        rows = read_json(out)["rows"] if out.exists() else []
        kept = [known for known in rows if (known["gradient"], known["seed"]) != (gradient, seed)]
        write_json(out, {"command": "python -m benchmarks.label_gradient GRADIENT", "rows": [*kept, row]})


if __name__ == "__main__":
    main()
