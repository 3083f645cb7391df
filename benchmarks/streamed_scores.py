"""Error rates of streaming recognizers by look-ahead and decoder, with NeMo's cache-aware streaming and offline.

    python -m benchmarks.streamed_scores ctc=stream-ctc.nemo hybrid=stream-hybrid.nemo --test test.json --out streamed.json

A hybrid is decoded by its transducer and by its CTC head. Streaming feeds the encoder in chunks of the look-ahead, as NeMo's
speech_to_text_cache_aware_streaming_infer.py does; offline, the encoder reads the whole utterance with the same attention.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import soundfile
import torch
from nemo.collections.asr.models import ASRModel, EncDecHybridRNNTCTCModel
from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer
from nemo.utils import logging
from rich.progress import Progress
from rich.table import Table
from torchmetrics.functional.text import char_error_rate, word_error_rate

from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@torch.inference_mode()
def stream(model: ASRModel, signals: list[np.ndarray]) -> tuple[torch.Tensor, list[str]]:
    """Transcribes signals that NeMo feeds in chunks.

    Args:
        model: cache-aware recognizer in evaluation mode, whose look-ahead and decoder are set.
        signals: (samples,) float32 each, at the sampling rate of the model.

    Returns:
        Encoder outputs (B, D, T') of all chunks, and the B texts after the last one.
    """
    buffer = CacheAwareStreamingAudioBuffer(model=model)
    for signal in signals:
        buffer.append_audio(signal, stream_id=-1)
    outputs, step_of_encoder = [], model.encoder.cache_aware_stream_step

    def remember(**arguments):
        found = step_of_encoder(**arguments)
        outputs.append(found[0])
        return found

    model.encoder.cache_aware_stream_step = remember
    caches, predictions, hypotheses, texts = model.encoder.get_initial_cache_state(len(signals)), None, None, []
    for number, (chunk, lengths) in enumerate(buffer):
        predictions, texts, *caches, hypotheses = model.conformer_stream_step(
            processed_signal=chunk, processed_signal_length=lengths, cache_last_channel=caches[0],
            cache_last_time=caches[1], cache_last_channel_len=caches[2], keep_all_outputs=buffer.is_buffer_empty(),
            previous_hypotheses=hypotheses, previous_pred_out=predictions,
            drop_extra_pre_encoded=model.encoder.streaming_cfg.drop_extra_pre_encoded if number else 0,
        )  # fmt: skip
    del model.encoder.cache_aware_stream_step
    return torch.cat(outputs, dim=2), [getattr(text, "text", text) for text in texts]


def decoders(model: ASRModel) -> Iterator[str]:
    """Sets each decoder of the model in turn, and yields its name."""
    if not isinstance(model, EncDecHybridRNNTCTCModel):
        yield "ctc"
        return
    for name in ("rnnt", "ctc"):
        model.change_decoding_strategy(decoder_type=name, verbose=False)
        yield name


def score(model: ASRModel, signals: list[np.ndarray], references: list[str], batch_size: int) -> dict[str, float]:
    """Returns error rates in %, streamed and offline, and the number of utterances whose two texts differ."""
    streamed = []
    for begin in range(0, len(signals), batch_size):
        streamed += stream(model.eval(), signals[begin : begin + batch_size])[1]
    offline = [found.text for found in model.transcribe(signals, batch_size=batch_size, verbose=False)]
    model.eval()  # transcribe leaves the encoder in training mode
    return {
        "streamed_cer": round(100 * float(char_error_rate(streamed, references)), 2),
        "offline_cer": round(100 * float(char_error_rate(offline, references)), 2),
        "streamed_wer": round(100 * float(word_error_rate(streamed, references)), 2),
        "offline_wer": round(100 * float(word_error_rate(offline, references)), 2),
        "utterances_that_differ": sum(one != other for one, other in zip(streamed, offline, strict=True)),
        "utterances": len(signals),
    }


def read(manifest: Path) -> tuple[list[np.ndarray], list[str]]:
    """Returns signals and texts of a manifest of single files."""
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    signals = [soundfile.read(manifest.parent / line["audio_filepath"], dtype="float32")[0] for line in lines]
    return signals, [line["text"] for line in lines]


def show(rows: list[dict], title: str) -> Table:
    """Returns the table for a terminal of 80 columns."""
    table = Table(title=title, title_justify="left")
    measures = ("CER %\nstreamed", "\noffline", "WER %\nstreamed", "\noffline")
    for number, header in enumerate(("", "decoder", "look-\nahead", *measures, "texts\ndiffer")):
        table.add_column(header, justify="right" if number > 1 else "left")
    for row in rows:
        rates = (row[f"{way}_{rate}"] for rate in ("cer", "wer") for way in ("streamed", "offline"))
        names = row["recognizer"], row["decoder"], str(row["look_ahead"])
        table.add_row(*names, *(f"{rate:.1f}" for rate in rates), str(row["utterances_that_differ"]))
    return table


@click.command(help=__doc__)
@click.argument("recognizers", nargs=-1, required=True, metavar="NAME=FILE.nemo...")
@click.option("--test", "manifest", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Manifest of single files with texts.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(recognizers: tuple[str, ...], manifest: Path, batch_size: int, out: Path) -> None:
    logging.setLevel(logging.ERROR)
    signals, references = read(manifest)
    rows = []
    for name, path in (recognizer.split("=", 1) for recognizer in recognizers):
        model = ASRModel.restore_from(path, map_location="cpu").eval()
        contexts = model.encoder.att_context_size_all
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(name, total=None)
            for decoder in decoders(model):
                for context in contexts:
                    progress.update(task, description=f"{name}, {decoder}, look-ahead {context[1]}")
                    model.encoder.set_default_att_context_size(context)
                    rows.append(
                        {"recognizer": name, "decoder": decoder, "look_ahead": context[1]}
                        | score(model, signals, references, batch_size)
                    )
                    write_json(out, {"command": "python -m benchmarks.streamed_scores", "test": manifest.name, "rows": rows})
    console.print(show(rows, f"{len(signals)} utterances of {manifest.name}"))


if __name__ == "__main__":
    main()
