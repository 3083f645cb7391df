"""A training run as a process: its folder, the checkpoint from which it resumes, signals, and the final result.

experiment.py          combines the parts around NeMo's exp_manager
lock.py                one run at a time in a folder
checkpoints.py         the newest checkpoint that can be read
stopping.py            a checkpoint after a signal, and by time
signals.py             effects of signals in the process and in the workers of its data loaders
resuming.py            the function that a command calls before training a resumed run; it uses:
changed_settings.py    lists settings that differ from the checkpoint, and refuses other labels
restoring.py           names the checkpoint if its content does not fit the run
optimizer_settings.py  applies the configured settings of optimizer and schedule
"""
