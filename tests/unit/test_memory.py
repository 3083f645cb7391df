"""The check that audio fits into memory."""

import pytest

from nemo_birq.utils.memory import check_room, total_memory_bytes


@pytest.mark.unit
def test_what_does_not_fit_is_refused_with_the_hours_that_fit():
    an_hour = 1000 * 3600
    share = 10.04 * an_hour / total_memory_bytes()  # room for 10.04 hours of 1000 bytes a second
    check_room(10 * 3600, 1000, "the outputs", share)
    with pytest.raises(ValueError, match=r"^the outputs\b.*\b10\.1 h\b.*\b10\.0 h\b.*--hours 10\.0$"):
        check_room(10.1 * 3600, 1000, "the outputs", share)
    with pytest.raises(ValueError, match=r"\b10\.0 h\b.*give fewer layers$"):
        check_room(20 * 3600, 1000, "the outputs", share, remedy="give fewer layers")
