"""Environment settings and fixtures for all tests."""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors: threads on shared cores only wait for each other
os.environ.setdefault("WANDB_MODE", "disabled")

import pytest
import torch
from nemo.core import ModelPT
from nemo.utils import logging

from nemo_birq.data.batch import SpeechBatch
from tests.helpers import forked  # noqa: F401  (its server is forked now, from a process in which nothing has happened)
from tests.helpers.models import make_batch, make_model

torch.set_num_threads(1)
_cache = tempfile.TemporaryDirectory()
os.environ["NEMO_BIRQ_CACHE"] = _cache.name  # the indexes of small made-up shards are no use to anybody


@pytest.fixture(autouse=True)
def no_experiment_version():
    """NeMo's exp_manager leaves its version in the environment, and scripts that later tests start would write there."""
    yield
    os.environ.pop("NEMO_EXPM_VERSION", None)


@pytest.fixture(autouse=True)
def log_level():
    """Scripts that run in this process raise the level of NeMo's log, and later tests would miss its messages."""
    with logging.temp_verbosity(logging.get_verbosity()):
        yield


@pytest.fixture(autouse=True)
def no_restoring():
    """NeMo remembers a restoration that failed, and then sets up no data in any later model of the process."""
    ModelPT._set_model_restore_state(is_being_restored=False)


@pytest.fixture(scope="session")
def nemo(tmp_path_factory) -> Path:
    """A pretrained file, to be read."""
    path = tmp_path_factory.mktemp("nemo") / "small.nemo"
    make_model().save_to(str(path))
    return path


@pytest.fixture
def batch() -> SpeechBatch:
    return make_batch()
