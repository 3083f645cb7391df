"""Checks of a whole configuration, before any module is built and before any file is written."""

from nemo_birq.config_checks.modules import check_modules
from nemo_birq.config_checks.optimizer import check_optimizer
from nemo_birq.config_checks.run import check_data_named, check_run_keys

__all__ = ["check_data_named", "check_modules", "check_optimizer", "check_run_keys"]
