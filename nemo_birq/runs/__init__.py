"""A training run as a process: its folder, the checkpoint that it goes on from, signals, and the result at its end.

experiment.py          puts the parts together around NeMo's exp_manager
lock.py                one run at a time in a folder
checkpoints.py         the newest checkpoint that can be read
stopping.py            a checkpoint after a signal, and by time
signals.py             what a signal does, in the process and in the workers of its data loaders
resuming.py            what a command calls before training, for the settings of a run that goes on:
changed_settings.py    lists those that differ from the checkpoint's, and refuses other labels
optimizer_settings.py  lets those of optimizer and schedule count
"""
