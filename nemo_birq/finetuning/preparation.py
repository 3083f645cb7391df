"""Checks of everything that is known before training, in the order that is most useful for the user."""

from pathlib import Path

from nemo.utils import logging
from omegaconf import DictConfig, open_dict

from nemo_birq.data.validation_sets import names_after_folders
from nemo_birq.finetuning import data
from nemo_birq.finetuning.freezing import check_freeze_encoder
from nemo_birq.finetuning.initialization import check_fresh_layers
from nemo_birq.finetuning.pretrained import pretrained_path
from nemo_birq.finetuning.settings import check_finetuning_keys
from nemo_birq.finetuning.transcripts import check_covered, read_transcripts
from nemo_birq.finetuning.vocabulary import Vocabulary, build_tokenizer, characters, pieces
from nemo_birq.pretrained.architecture import take_architecture
from nemo_birq.pretrained.source import read_source_config
from nemo_birq.scoring.audio import check_audio
from nemo_birq.scoring.eval_sets import TestSet, read_test_sets
from nemo_birq.utils.text_files import refuse_mark


def prepare(cfg: DictConfig) -> tuple[str, list[TestSet]]:
    """Completes a configuration of conf/finetune: architecture and tokenizer.

    Returns:
        The path of the pretrained file, and the test sets of ``test_manifests``.

    Raises:
        FileNotFoundError, ValueError: training cannot start with a file or key; the message says what to do.
    """
    check_finetuning_keys(cfg)
    check_freeze_encoder(cfg.freeze_encoder)
    path = pretrained_path(cfg)
    take_architecture(cfg.model, read_source_config(Path(path)), path)
    check_fresh_layers(cfg.fresh_layers, cfg.model.encoder.n_layers)
    named = cfg.test_manifests or []
    tests = read_test_sets([named] if isinstance(named, str) else list(named))
    for test in tests:
        check_audio(test.manifest)  # otherwise errors would appear only at the end
    training = data.manifests(cfg.model.train_ds, "train_ds")
    validation = data.manifests(cfg.model.validation_ds, "validation_ds")
    others = [*validation, *(str(test.manifest) for test in tests)]
    transcripts = {manifest: read_transcripts(manifest) for manifest in [*training, *others]}
    for manifest in (*training, *validation):
        refuse_mark(Path(manifest))
    with open_dict(cfg.model.validation_ds):
        cfg.model.validation_ds.update(names_after_folders(cfg.model.validation_ds))
    data.open_whole(cfg.model.validation_ds)  # otherwise NeMo would stop at the first validation, an epoch later
    texts = [line for manifest in training for line in transcripts[manifest]]
    if "tokenizer" in cfg.model and not cfg.model.tokenizer.dir:
        folder = Path(cfg.exp_manager.exp_dir or "nemo_experiments") / str(cfg.name)
        with open_dict(cfg.model):
            cfg.model.tokenizer.dir = build_tokenizer(cfg.build_tokenizer, [line.text for line in texts], folder)
    vocabulary = _vocabulary(cfg.model)
    if vocabulary is None:
        if (words := Path(cfg.model.tokenizer.dir) / "vocab.txt").is_file():
            refuse_mark(words)
        logging.warning(f"model.tokenizer.type={cfg.model.tokenizer.type}: its coverage of the texts was not checked")
        return path, tests
    for manifest, lines in transcripts.items():
        allowed = cfg.get("allow_unknown_symbols", False) and manifest not in training
        check_covered(lines, vocabulary.unknown, manifest, vocabulary.name, allowed)
    if "CTC" in cfg.model.target:
        frame_seconds = cfg.model.preprocessor.get("window_stride", 0.01) * cfg.model.encoder.subsampling_factor
        data.warn_of_long_texts(texts, vocabulary, frame_seconds)
    return path, tests


def _vocabulary(model: DictConfig) -> Vocabulary | None:
    if "tokenizer" not in model:
        return characters(list(model.labels))
    return pieces(model.tokenizer.dir) if model.tokenizer.type == "bpe" else None
