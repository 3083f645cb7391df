"""A small model and a few utterances with alignments, for the tests of label quality."""

from nemo_birq import BiRQModel
from nemo_birq.evaluation.label_quality.utterances import Utterances, read_utterances
from tests.helpers.models import generator, make_batch, make_model
from tests.helpers.paths import CORPUS

MANIFEST = CORPUS / "validation" / "validation.json"
CTM = CORPUS / "validation" / "phones.ctm"


def make_model_with_losses() -> BiRQModel:
    """Makes a small model with statistics of layer k."""
    model = make_model()
    model.train()
    batch = make_batch()
    model.losses(batch, model.schedule.full, generator(), observe_labels=True, over_ranks=False)
    return model.eval()


def read_short_utterances() -> Utterances:
    """Reads the shortest utterances of the validation set."""
    return read_utterances(MANIFEST, CTM, hours=20 / 3600)
