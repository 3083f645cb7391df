"""Builds tar shards in NeMo's format from audio of any kind.

recipes/         kinds of input: a folder, a manifest, cuts or a corpus becomes a list of segments of audio files
headers.py       reads the length of each file without decoding it
cut.py           cuts segments that are too long into pieces
listing.py       does this in many processes and writes tables with one row for each segment and piece
names.py         names of the members
arrangement.py   finds duplicates and assigns pieces to shards, from single columns of the tables
pieces.py        writes the pieces of each shard to files, sorted without having all of them in memory
planning.py      makes the plan from these
plan.py          the plan, which is written to disk so that an interrupted build can resume
shard_job.py     builds one shard: decode, check, encode, write
writer.py        writes a tar file and its manifest
build.py         the whole build, with the lock and the processes
card.py          dataset_card.json and durations.png
verify.py        compares every shard with its manifest and the card
verify_files.py  the same for single files

Nothing here imports NeMo, so that processes that build shards start quickly.
"""
