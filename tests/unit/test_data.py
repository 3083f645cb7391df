"""Manifests and shards: faults that are refused before training, and utterances that are skipped during it."""

import io
import json
import pickle
import shutil
import tarfile
from collections import Counter
from itertools import islice
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import soundfile
import torch
from omegaconf import OmegaConf

from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.shards.writer import Utterance, write_shards
from nemo_birq.data.sources import read_sources
from nemo_birq.data.trainer_hooks import check_trainer, with_schedule_length
from nemo_birq.data.webdataset import UnreadableShardsError
from tests.helpers.models import SAMPLE_RATE
from tests.helpers.paths import CORPUS
from tests.helpers.shards import make_shards, wav

pytestmark = pytest.mark.unit
TRAIN = CORPUS / "train"
NO_LINES = r"(?s)^(?!.*\bline \d).*_CL_\.json.*audio_0\.tar"  # the files alone: there is no line to name


def node(folder: Path, shards=2, **changes):
    last = shards - 1
    return OmegaConf.create(
        {
            "use_lhotse": True,
            "manifest_filepath": f"{folder}/sharded_manifests/manifest__OP_0..{last}_CL_.json",
            "tarred_audio_filepaths": f"{folder}/audio__OP_0..{last}_CL_.tar",
            "shuffle": True,
            "batch_size": 4,
            "shuffle_buffer_size": 16,
            "num_workers": 0,
        }
        | changes
    )


def load(config, rank=0, world_size=1, training=False):
    return build_dataloader(config, SAMPLE_RATE, rank, world_size, training)


def take(loader, batches):
    return list(islice(loader, batches))


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lhotse", [True, False])
def test_both_loaders_read_every_utterance_as_it_is(tmp_path, lhotse):
    folder = make_shards(tmp_path / "shards")
    config = node(folder, use_lhotse=lhotse, is_tarred=not lhotse)
    seen = {}
    for batch in load(config):
        for row, length, name in zip(batch.signal, batch.signal_length, batch.ids, strict=True):
            seen[name] = row[:length]
        assert batch.num_samples == batch.signal_length.tolist() == batch.lengths_on_host.tolist()
    assert sorted(seen) == [f"clip{i}.wav" for i in range(8)]
    for i in range(8):
        expected, _ = soundfile.read(io.BytesIO(wav(1 + 0.1 * i, pitch=200 + 50 * i)), dtype="float32")
        torch.testing.assert_close(seen[f"clip{i}.wav"], torch.from_numpy(expected))


def test_manifests_without_text_and_the_embedded_corpus_load():
    config = node(TRAIN, shards=4, batch_size=8)
    batch = take(load(config), 1)[0]
    assert batch.signal.shape[0] == 8 and batch.skipped == 0 and batch.ids[0].endswith(".opus")


def test_webdataset_shuffles_inside_shards_from_the_seed(tmp_path):
    folder = make_shards(tmp_path / "shards", shards=1)

    def order(seed):
        config = node(folder, shards=1, use_lhotse=False, is_tarred=True, seed=seed, batch_size=8, shuffle_n=8)
        return take(load(config), 1)[0].ids

    assert order(1) == order(1) != order(2)
    assert order(1) != [f"clip{i}.wav" for i in range(8)]


def test_building_a_loader_leaves_the_random_state(tmp_path):
    config = node(make_shards(tmp_path / "shards"))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load(config)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("lhotse", [True, False])
def test_other_sample_rates_and_stereo_are_converted(tmp_path, lhotse):
    extra = {"low.wav": wav(1.0, rate=8000), "stereo.wav": wav(1.0, rate=44100, channels=2)}
    folder = make_shards(tmp_path / "shards", extra)
    config = node(folder, use_lhotse=lhotse, is_tarred=not lhotse, min_duration=0.5)
    seen = {}
    for batch in load(config):
        assert batch.signal.dim() == 2
        seen |= dict(
            zip(batch.ids, [(r[:n], int(n)) for r, n in zip(batch.signal, batch.signal_length, strict=True)], strict=True)
        )
    for name in extra.keys() & seen.keys():
        signal, length = seen[name]
        assert abs(length - SAMPLE_RATE) <= 2
        spectrum = torch.fft.rfft(signal[:SAMPLE_RATE].double()).abs()
        assert abs(int(spectrum.argmax()) - 300) <= 1  # the tone is still at 300 Hz
    assert "low.wav" in seen


BAD = {
    "broken.wav": b"RIFF not audio at all",
    "empty.wav": wav(0.0),
    "short.wav": wav(0.3),
    "cut.flac": b"fLaC\x00\x00",
}


def test_bad_members_are_named_counted_and_left_out(tmp_path, caplog):
    folder = make_shards(tmp_path / "shards", BAD, durations={"short.wav": 5.0})
    messages = []
    from nemo.utils import logging as nemo_logging

    original = nemo_logging.warning
    nemo_logging.warning = lambda message, *args, **kwargs: messages.append(str(message))
    try:
        batches = list(load(node(folder)))
    finally:
        nemo_logging.warning = original
    assert sorted(name for batch in batches for name in batch.ids) == [f"clip{i}.wav" for i in range(8)]
    assert sum(batch.skipped for batch in batches) == len(BAD)
    for name in BAD:
        assert any(name in message for message in messages), name


def test_audio_that_breaks_only_when_decoded_is_skipped(tmp_path):
    """The header is right, but the data are not, which Lhotse finds while it makes the batch."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(size=SAMPLE_RATE) * 0.1, SAMPLE_RATE, format="FLAC")
    flac = bytearray(buffer.getvalue())
    flac[len(flac) // 3 :] = b"\xff" * (len(flac) - len(flac) // 3)
    folder = make_shards(tmp_path / "shards", {"torn.flac": bytes(flac)})
    batches = list(load(node(folder)))
    names = [name for batch in batches for name in batch.ids]
    assert [n for n in sorted(names) if n.startswith("clip")] == [f"clip{i}.wav" for i in range(8)]
    assert "torn.flac" not in names and sum(batch.skipped for batch in batches) == 1


def test_batch_of_nothing_but_bad_audio_is_a_silent_stand_in(tmp_path):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).normal(size=SAMPLE_RATE) * 0.1, SAMPLE_RATE, format="FLAC")
    torn = buffer.getvalue()[:200] + b"\xff" * (len(buffer.getvalue()) - 200)
    write_shards([Utterance("torn.flac", torn, {"duration": 1.0})], tmp_path / "shards", 1)
    batches = list(load(node(tmp_path / "shards", shards=1)))
    assert len(batches) == 1 and batches[0].is_silent_stand_in and batches[0].skipped == 1


def test_webdataset_skips_bad_members_too(tmp_path):
    bad = {"broken.wav": BAD["broken.wav"], "empty.wav": BAD["empty.wav"]}
    config = node(make_shards(tmp_path / "shards", bad), use_lhotse=False, is_tarred=True)
    batches = list(load(config))
    assert {name for batch in batches for name in batch.ids} == {f"clip{i}.wav" for i in range(8)}
    assert {len(batch.ids) for batch in batches} == {4}  # whole batches, so that ranks stay in step
    assert sum(batch.skipped for batch in batches) >= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_webdataset_ranks_take_equally_many_steps_and_read_everything(tmp_path, workers):
    """Three shards of 3, 3 and 2 utterances on two ranks: rank 1 has one shard, rank 0 two; a run would hang otherwise."""
    folder = make_shards(tmp_path / "shards", shards=3)
    config = node(folder, shards=3, use_lhotse=False, is_tarred=True, batch_size=2, num_workers=workers)
    ranks = [list(load(config, rank, 2)) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == len(load(config, 0, 2)) == 3
    assert {name for batches in ranks for batch in batches for name in batch.ids} == {f"clip{i}.wav" for i in range(8)}
    with pytest.raises(ValueError, match=r"\brank 1\b.*\b1 shards\b.*\b2 workers\b"):
        load(node(folder, shards=3, use_lhotse=False, is_tarred=True, batch_size=2, num_workers=2), 1, 2)


def test_several_datasets_mix_by_weight(tmp_path):
    """All of the rarer dataset is read; the other one is repeated."""
    one, two = make_shards(tmp_path / "one"), tmp_path / "two"
    write_shards([Utterance(f"other{i}.wav", wav(1.0), {"duration": 1.0}) for i in range(8)], two, 2)
    config = node(one, manifest_filepath=[[node(one).manifest_filepath, 0.75], [node(two).manifest_filepath, 0.25]])
    config.tarred_audio_filepaths = [[node(one).tarred_audio_filepaths], [node(two).tarred_audio_filepaths]]
    names = Counter(name for batch in load(config) for name in batch.ids)
    assert names == {f"other{i}.wav": 1 for i in range(8)} | {f"clip{i}.wav": 3 for i in range(8)}


@pytest.mark.parametrize("tars", ["pipe:touch ran; cat audio_0.tar", "pip_OP_e..e_CL_:touch ran; cat audio_0.tar"])
def test_a_file_with_input_cfg_runs_no_command(tmp_path, tars):
    """Webdataset would run it; the user's own configuration may name a command."""
    entry = {"type": "nemo_tarred", "manifest_filepath": "manifest_0.json", "tarred_audio_filepaths": tars}
    OmegaConf.save([{"type": "group", "input_cfg": [entry]}], tmp_path / "foreign.yaml")
    with pytest.raises(ValueError, match=r"foreign\.yaml names the command pipe:touch ran"):
        read_sources(OmegaConf.create({"input_cfg": str(tmp_path / "foreign.yaml")}))
    assert read_sources(OmegaConf.create({"input_cfg": [entry]}))[0].tars == tars


def test_input_cfg_of_nemo_names_the_same_datasets(tmp_path):
    one, two = node(make_shards(tmp_path / "one")), node(make_shards(tmp_path / "two"))
    tarred = [
        {"type": "nemo_tarred", **{k: n[k] for k in ("manifest_filepath", "tarred_audio_filepaths")}} for n in (one, two)
    ]
    group = {"type": "group", "weight": 0.5, "input_cfg": [t | {"weight": w} for t, w in zip(tarred, (3, 1), strict=True)]}
    files = {"type": "nemo", "manifest_filepath": "dev.json", "weight": 0.5}
    sources = read_sources(OmegaConf.create({"input_cfg": [group, files]}))
    assert [(s.manifest, s.weight) for s in sources] == [
        (one.manifest_filepath, 0.375), (two.manifest_filepath, 0.125), ("dev.json", 0.5),
    ]  # fmt: skip
    assert [s.tars for s in sources] == [one.tarred_audio_filepaths, two.tarred_audio_filepaths, None]
    with pytest.raises(ValueError, match="lhotse_shar"):
        read_sources(OmegaConf.create({"input_cfg": [{"type": "lhotse_shar"}]}))
    with pytest.raises(ValueError, match=r"\bweight\b.*\b2 datasets\b.*dev\.json"):
        read_sources(OmegaConf.create({"input_cfg": [files, tarred[0]]}))


def test_bad_single_files_are_skipped(tmp_path):
    clips = {f"clip{i}.wav": wav() for i in range(4)} | BAD
    for name, audio in clips.items():
        (tmp_path / name).write_bytes(audio)
    lines = [{"audio_filepath": name, "duration": 1.0} for name in clips]
    (tmp_path / "dev.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = OmegaConf.create({"use_lhotse": True, "manifest_filepath": str(tmp_path / "dev.json"), "batch_size": 2})
    batches = list(load(config))
    assert sorted(name for batch in batches for name in batch.ids) == [str(tmp_path / f"clip{i}.wav") for i in range(4)]
    assert sum(batch.skipped for batch in batches) == len(BAD)


# --- faults that are refused before training ----------------------------------------------------------------------------


def refuse(config, error, message):
    with pytest.raises(error, match=message):
        load(config)


def test_missing_files_are_named(tmp_path):
    refuse(node(tmp_path / "nowhere"), FileNotFoundError, r"nowhere/.*manifest_0\.json")
    folder = make_shards(tmp_path / "shards")
    (folder / "audio_1.tar").unlink()
    refuse(node(folder), FileNotFoundError, r"audio_1\.tar")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", NO_LINES),
        ("\n\n", NO_LINES),
        ("audio.wav 1.0\n", r"\bline 1\b.*JSON"),
        ('{"audio_filepath": "clip0.wav", "duration": 1.0}\n[1, 2]\n', r"\bline 2\b.*\blist\b"),
        ('{"path": "clip0.wav", "seconds": 1.0}\n', r"\bline 1\b.*\['audio_filepath', 'duration'\].*\['path', 'seconds'\]"),
        ('{"audio_filepath": "clip0.wav", "duration": "long"}\n', "duration='long'"),
        ('{"audio_filepath": "clip0.wav", "duration": 0}\n', r"\bline 1\b.*duration=0\b"),
        ('{"audio_filepath": null, "duration": 1.0}\n', r"\bline 1\b.*audio_filepath=None"),
        ('{"audio_filepath": "clip99.wav", "duration": 1.0}\n', r"audio_0\.tar.*clip99\.wav"),
    ],
)
def test_bad_manifests_are_refused(tmp_path, content, message):
    folder = make_shards(tmp_path / "shards", shards=1)
    (folder / "sharded_manifests" / "manifest_0.json").write_text(content)
    refuse(node(folder, shards=1), ValueError, message)


def test_manifest_that_is_not_utf8_is_refused(tmp_path):
    folder = make_shards(tmp_path / "shards")
    path = folder / "sharded_manifests" / "manifest_0.json"
    path.write_bytes(path.read_bytes() + b'{"audio_filepath": "x.wav", "duration": 1, "text": "caf\xe9"}\n')
    refuse(node(folder), ValueError, "UTF-8")


def test_shards_and_manifests_must_agree(tmp_path):
    folder = make_shards(tmp_path / "shards")
    config = node(folder)
    config.tarred_audio_filepaths = f"{folder}/audio_0.tar"
    refuse(config, ValueError, "2 manifests.*1 shards")
    config = node(folder)
    config.manifest_filepath = f"{folder}/tarred_audio_manifest.json"
    assert len(list(load(config))) == 2  # one for all
    lines = (folder / "tarred_audio_manifest.json").read_text().splitlines()
    changed = [json.dumps(json.loads(lines[0]) | {"shard_id": 7}), *lines[1:]]
    (folder / "tarred_audio_manifest.json").write_text("\n".join(changed))
    refuse(config, ValueError, "shard_id=7")
    (folder / "audio_0.tar").write_bytes(b"not a tar file" * 100)
    refuse(node(folder), ValueError, r"audio_0\.tar.*\b0 members")


def test_truncated_shard_is_refused(tmp_path):
    folder = make_shards(tmp_path / "shards")
    tar = folder / "audio_1.tar"
    tar.write_bytes(tar.read_bytes()[:40_000])
    refuse(node(folder), ValueError, "audio_1.tar")


def test_loose_files_must_exist(tmp_path):
    (tmp_path / "dev.json").write_text('{"audio_filepath": "a.wav", "duration": 1.0}\n')
    config = OmegaConf.create({"use_lhotse": True, "manifest_filepath": str(tmp_path / "dev.json"), "batch_size": 1})
    refuse(config, ValueError, r"dev\.json.*/a\.wav")


def test_keys_of_nemo_that_are_not_supported_are_refused(tmp_path):
    folder = make_shards(tmp_path / "shards")
    refuse(node(folder, perturb_speed=True), ValueError, "perturb_speed=True")
    refuse(node(folder, batch_size=None), ValueError, "batch_duration, batch_size")
    refuse(node(folder, bucket_duration_bins=[3.0, 2.0]), ValueError, r"bucket_duration_bins=\[3\.0, 2\.0\]")
    refuse(node(folder, min_duration=100.0), ValueError, r"_CL_\.json.*min_duration.*max_duration")
    command = node(folder, tarred_audio_filepaths="pipe:cat audio__OP_0..1_CL_.tar")
    refuse(command, ValueError, r"pipe:cat audio_0\.tar is a command.*use_lhotse=false is_tarred=true")


def test_webdataset_ends_where_nothing_can_be_read(tmp_path):
    """It would otherwise search forever while other ranks wait."""
    write_shards([Utterance(f"bad{i}.wav", b"RIFF", {"duration": 1.0}) for i in range(6)], tmp_path / "shards", 1)
    config = node(tmp_path / "shards", shards=1, use_lhotse=False, is_tarred=True, batch_size=2)
    with pytest.raises(UnreadableShardsError, match=r"\b6 members\b.*'bad5\.wav'"):
        list(load(config))


def test_position_is_that_of_the_data_wherever_they_lie(tmp_path):
    """Data that are copied to another folder are the same; with another utterance they are not."""
    folder = make_shards(tmp_path / "shards")
    first = load(node(folder, batch_size=2), training=True)
    names = [batch.ids for batch in take(first, 3)]
    state = first.state_dict()
    shutil.copytree(folder, tmp_path / "copy")
    moved = load(node(tmp_path / "copy", batch_size=2), training=True)
    moved.load_state_dict(state)
    assert take(moved, 1)[0].ids == take(load(node(folder, batch_size=2), training=True), 4)[3].ids not in names
    other = load(node(make_shards(tmp_path / "other", {"new.wav": wav()}), batch_size=2), training=True)
    other.load_state_dict(state)
    assert other.state_dict()["epoch"] == 1 and other.state_dict()["batch"] == 0
    assert len(pickle.dumps(moved.sampler)) < 10_000


def test_schedule_of_epochs_has_the_steps_of_planned_batches():
    optim = OmegaConf.create({"name": "adamw", "sched": {"name": "CosineAnnealing"}})
    trainer = pl.Trainer(max_epochs=3, accumulate_grad_batches=2, limit_train_batches=0.5, accelerator="cpu", logger=False)
    assert with_schedule_length(optim, trainer, range(21)).sched.max_steps == 3 * 5
    given = pl.Trainer(max_steps=7, accelerator="cpu", logger=False)
    assert "max_steps" not in with_schedule_length(optim, given, range(21)).sched
    with pytest.raises(ValueError, match="overfit_batches"):
        check_trainer(pl.Trainer(overfit_batches=2, accelerator="cpu", logger=False))


def test_share_of_unusable_utterances_decides(tmp_path):
    """One of nine lines names nothing."""
    folder = make_shards(tmp_path / "shards")
    with open(folder / "sharded_manifests" / "manifest_0.json", "a") as file:
        file.write('{"audio_filepath": "ghost.wav", "duration": 1.0}\n')
    refuse(node(folder), ValueError, r"\b1 of 9 .*\n.*audio_0\.tar.*ghost\.wav")
    assert sum(len(batch.ids) for batch in load(node(folder, max_skipped_share=0.2))) == 8


def test_way_of_loading_must_be_chosen(tmp_path):
    folder = make_shards(tmp_path / "shards")
    refuse(node(folder, use_lhotse=False), ValueError, r"_CL_\.json.*use_lhotse=true.*is_tarred=true")
    config = node(folder, use_lhotse=False, is_tarred=True)
    config.tarred_audio_filepaths = None
    refuse(config, ValueError, r"is_tarred=true.*tarred_audio_filepaths.*_CL_\.json")
    config = node(folder)
    config.manifest_filepath = [[str(folder)], [str(folder)]]
    with pytest.raises(ValueError, match=r"manifest_filepath\D*2\D.*tarred_audio_filepaths\D*1\b"):
        read_sources(config)


def test_manifest_must_be_given():
    config = OmegaConf.create({"use_lhotse": True, "manifest_filepath": "???"})
    with pytest.raises(ValueError, match=r"model\.train_ds\.manifest_filepath="):
        load(config)


# --- writing ----------------------------------------------------------------------------------------------------------


def test_shards_are_reproducible_and_never_overwritten(tmp_path):
    one, two = make_shards(tmp_path / "one"), make_shards(tmp_path / "two")
    for path in one.rglob("*.*"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
    with pytest.raises(FileExistsError):
        make_shards(one)
    with tarfile.open(one / "audio_0.tar") as tar:
        manifest = (one / "sharded_manifests" / "manifest_0.json").read_text().splitlines()
        assert tar.getnames() == [json.loads(line)["audio_filepath"] for line in manifest]


def test_equal_names_are_refused_and_leave_no_shard(tmp_path):
    utterance = Utterance("a.wav", wav(), {"duration": 1.0})
    with pytest.raises(ValueError, match=r"a\.wav"):
        write_shards([utterance, utterance], tmp_path, 1)
    assert not list(tmp_path.glob("*.tar"))
