"""CTC with an n-gram language model: NeMo's beam searches over the log probabilities of each utterance.

The units of the n-grams select the search:

* **words**, as in the LibriSpeech 4-gram: ``WordBeamSearch``, NeMo's Flashlight decoder. It only writes words in the
  vocabulary of the language model, and needs the package flashlight-text.
* **tokens of the recognizer**, characters or word pieces, each written as one character, ``chr(id + 100)``, as NeMo does:
  ``TokenBeamSearch``, NeMo's batched search (strategy ``beam_batch``), on CPU and GPU, without a further package.

Both score  log p(audio)  +  alpha * log p(language model)  +  beta * number of words or tokens. The logarithm of the
language model is natural for tokens and to base 10 for words, as in these libraries, so their alphas are not comparable.

NeMo's strategies are not called through ``transcribe``, because both searches would continue over the padding, and the text
of an utterance would depend on its batch. Here, Flashlight gets single utterances, and the padding of the batched search
consists of certain blanks.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from nemo.collections.asr.models import ASRModel
from nemo.collections.asr.parts.submodules.ctc_beam_decoding import DEFAULT_TOKEN_OFFSET
from nemo.collections.asr.parts.submodules.ctc_decoding import CTCBPEDecoding, CTCDecoding, CTCDecodingConfig
from omegaconf import OmegaConf

from nemo_birq.scoring.arpa import Arpa, decodable, read_arpa
from nemo_birq.scoring.ngram_estimation import UNKNOWN
from nemo_birq.scoring.tokens import vocabulary, with_own_apostrophes

IMPOSSIBLE = -1e4  # log probability; finite, because sums must not become NaN
TOKENS_OF_A_FRAME = 64  # number of the most probable tokens in the search over words


class BeamSearch(ABC):
    """Search for texts from log probabilities, whose weights can be changed without reading the language model again."""

    about: str  # description for tables
    beam_size: int  # default number of hypotheses
    weights: tuple[float, float]  # default alpha and beta
    grid: tuple[list[float], list[float]]  # alphas and betas to try

    @abstractmethod
    def set_weights(self, alpha: float, beta: float) -> None: ...

    @abstractmethod
    def decode(self, outputs: list[torch.Tensor]) -> list[str]:
        """Finds the best text of each utterance; ``outputs`` are log probabilities, (T', V + 1), blank last."""


class WordBeamSearch(BeamSearch):
    """Search over the words of the language model, spelled with the tokens of the recognizer."""

    beam_size = 128
    weights = (2.0, 1.0)
    grid = ([0.5, 1.0, 1.5, 2.0, 3.0], [0.0, 1.0, 2.0])

    def __init__(self, arpa: Arpa, spellings: dict[str, list[str]], model: ASRModel, beam_size: int):
        from nemo.collections.asr.modules.flashlight_decoder import FlashLightKenLMBeamSearchDecoder

        with TemporaryDirectory() as folder:
            lexicon = Path(folder) / "lexicon.txt"
            lines = (f"{word}\t{' '.join(tokens)}\n" for word, tokens in spellings.items())
            lexicon.write_text("".join(lines), encoding="utf-8")
            tokens, tokenizer = vocabulary(model), getattr(model, "tokenizer", None)
            self.search = FlashLightKenLMBeamSearchDecoder(
                lm_path=str(arpa.path), vocabulary=tokens, tokenizer=tokenizer,
                lexicon_path=str(lexicon), beam_size=beam_size, beam_size_token=min(TOKENS_OF_A_FRAME, len(tokens) + 1),
            )  # fmt: skip
        join = tokenizer.tokens_to_text if tokenizer else "".join
        self.written = {word: join(tokens) for word, tokens in spellings.items()}  # the model of LibriSpeech is in capitals
        self.about = f"{arpa.order}-gram of words ({len(spellings)} of {len(arpa.symbols)} spelled), beam {beam_size}"

    def set_weights(self, alpha: float, beta: float) -> None:
        from flashlight.lib.text.decoder import LexiconDecoder

        options = self.search.decoder_opts
        options.lm_weight, options.word_score = alpha, beta
        search = self.search
        search.decoder = LexiconDecoder(
            options, search.trie, search.lm, search.silence, search.blank, search.unk_word, [], False
        )

    def decode(self, outputs: list[torch.Tensor]) -> list[str]:
        return [self._decode(output.float().cpu().contiguous()) for output in outputs]

    def _decode(self, output: torch.Tensor) -> str:
        found = self.search.decoder.decode(output.data_ptr(), *output.shape)
        words = found[0].words if found else []
        return " ".join(self.written[self.search.word_dict.get_entry(word)] for word in words if word >= 0)


class TokenBeamSearch(BeamSearch):
    """Search over the tokens of the recognizer."""

    beam_size = 16
    weights = (0.5, 1.0)
    grid = ([0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 0.5, 1.0, 1.5])

    def __init__(self, arpa: Arpa, model: ASRModel, beam_size: int):
        config = OmegaConf.structured(CTCDecodingConfig)
        config.strategy = "beam_batch"
        config.beam.beam_size, config.beam.ngram_lm_model = beam_size, str(arpa.path)
        if hasattr(model, "tokenizer"):
            self.decoding = CTCBPEDecoding(config, tokenizer=model.tokenizer)
        else:
            self.decoding = CTCDecoding(config, vocabulary=vocabulary(model))
        self.device = model.device
        self.about = f"{arpa.order}-gram of tokens, beam {beam_size}"

    def set_weights(self, alpha: float, beta: float) -> None:
        computer = self.decoding.decoding.search_algorithm
        computer.fusion_models_alpha, computer.beam_beta = [alpha], beta
        computer.reset_cuda_graphs_state()  # a recorded CUDA graph holds the old weights

    def decode(self, outputs: list[torch.Tensor]) -> list[str]:
        lengths = torch.tensor([len(output) for output in outputs])
        padded = torch.full((len(outputs), int(lengths.max()), outputs[0].shape[1]), IMPOSSIBLE)
        padded[..., -1] = 0.0  # a certain blank changes no score and no order
        for row, output in zip(padded, outputs, strict=True):
            row[: len(output)] = output
        found = self.decoding.ctc_decoder_predictions_tensor(padded.to(self.device), decoder_lengths=lengths.to(self.device))
        return [hypothesis.text for hypothesis in found]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Adds the name of the file to errors of the libraries that read the n-grams.

    Raises:
        ValueError: replaces errors of KenLM and NeMo, which are of nearly every type.
    """
    try:
        yield
    except (ImportError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or ["no message"])[-1]
        raise ValueError(
            f"language model {path} cannot be read ({type(error).__name__}: {reason}): it is damaged. Get it again"
        ) from error


def open_beam_search(path: Path, model: ASRModel, beam_size: int | None = None) -> BeamSearch:
    """Opens the search for a language model and a CTC model, with its default weights.

    Raises:
        ValueError: the language model does not fit the recognizer; otherwise as ``read_arpa``.
        ImportError: a model of words needs flashlight-text, which is not installed.
    """
    arpa = read_arpa(path)
    kind = kind_of(arpa)
    beam_size = beam_size or kind.beam_size
    if kind is TokenBeamSearch:
        check_tokens(arpa, len(vocabulary(model)))
        with _reading(path), decodable(arpa) as file:
            search: BeamSearch = TokenBeamSearch(file, model, beam_size)
    else:
        spellings = spell(arpa, model)
        with _reading(path), decodable(arpa) as file:
            search = WordBeamSearch(file, spellings, model, beam_size)
    search.set_weights(*search.weights)
    return search


def kind_of(arpa: Arpa) -> type[BeamSearch]:
    """Returns the search for n-grams of tokens if all symbols are single characters, otherwise the search for words.

    Raises:
        ImportError: a model of words needs flashlight-text, which is not installed.
    """
    if all(len(symbol) == 1 for symbol in arpa.symbols):
        return TokenBeamSearch
    check_flashlight()
    return WordBeamSearch


def check_flashlight() -> None:
    """Raises ImportError with a remedy if flashlight-text is not installed."""
    try:
        import flashlight.lib.text.decoder.kenlm  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "a language model of words needs the package flashlight-text (pip install flashlight-text; there are wheels for "
            f"Linux on x86-64): {error}. A language model of tokens needs none: birq estimate-ngram --tokens-of"
        ) from error


def check_tokens(arpa: Arpa, vocabulary_size: int) -> None:
    """Raises ValueError if symbols of a model of tokens are not ``chr(id + 100)`` with an id of the vocabulary."""
    ids = [ord(symbol) - DEFAULT_TOKEN_OFFSET for symbol in arpa.symbols]
    wrong = [symbol for symbol, token in zip(arpa.symbols, ids, strict=True) if not 0 <= token < vocabulary_size]
    if wrong:
        raise ValueError(
            f"language model {arpa.path}: {len(wrong)} of its {len(arpa.symbols)} tokens, such as {wrong[0]!r}, are not "
            f"among the {vocabulary_size} of the recognizer. Give a model of the tokens of this recognizer, "
            f"written as chr(id + {DEFAULT_TOKEN_OFFSET}), from birq estimate-ngram --tokens-of or NeMo's train_kenlm.py"
        )
    with open(arpa.path, encoding="utf-8") as file:
        if not next(file).strip():
            raise ValueError(
                f"language model {arpa.path} begins with an empty line, which NeMo refuses: sed -i 1d {arpa.path}"
            )


def spell(arpa: Arpa, model: ASRModel) -> dict[str, list[str]]:
    """Finds the tokens of each word that the recognizer can write, unchanged or in lower case.

    Raises:
        ValueError: the recognizer can write no word, or has no token that separates words.
    """
    tokens_held = set(vocabulary(model))
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None and " " not in tokens_held:
        raise ValueError("the recognizer has no token for the space: use a language model of its tokens, not of words")
    found = {}
    for word in arpa.symbols:
        for written in (with_own_apostrophes(word, tokens_held), with_own_apostrophes(word.lower(), tokens_held)):
            tokens = tokenizer.text_to_tokens(written) if tokenizer else list(written)
            if tokens_held.issuperset(tokens) and UNKNOWN not in tokens:
                found[word] = tokens
                break
    if not found:
        raise ValueError(
            f"language model {arpa.path}: none of its {len(arpa.symbols)} words, such as {arpa.symbols[0]!r}, can be "
            f"written with the tokens of the recognizer, such as {sorted(tokens_held)[:8]}. Give a model of its language"
        )
    return found
