"""From any pile of audio to tar shards in NeMo's format.

recipes/         the sources: a folder, a manifest, cuts or a corpus becomes a list of segments of audio files
headers.py       the length of each file, without decoding it
cut.py           segments that are too long become pieces
listing.py       all of that by many processes: tables on the disk, one row for each segment and piece
names.py         what the members are called
arrangement.py   which segments are there twice, and which piece goes into which shard, from single columns
pieces.py        the pieces of each shard as files, sorted without being in memory all at once
planning.py      makes the plan from these
plan.py          what a plan holds; written to disk, so that an interrupted build can resume
shard_job.py     one shard: decode, check, encode, write
writer.py        the tar file and its manifest
build.py         the whole build, with the lock and the processes
card.py          dataset_card.json and durations.png
verify.py        the way back: does every shard hold what its manifest and the card say?
verify_files.py  the same for single files

Nothing here imports NeMo, so that a process that builds shards starts at once.
"""
