"""A precision that the device only emulates is refused."""

import pytest
import torch

from nemo_birq.utils.precision import check_precision

pytestmark = pytest.mark.unit


def test_a_precision_that_would_be_emulated_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an old GPU")
    with pytest.raises(ValueError, match=r"trainer\.precision=bf16-mixed.*\ban old GPU\b.*16-mixed"):
        check_precision("bf16-mixed", torch.device("cuda"))
    check_precision("16-mixed", torch.device("cuda"))
    check_precision("bf16-mixed", torch.device("cpu"))
