"""From any pile of audio to tar shards in NeMo's format.

recipes/         what there is: a folder, a manifest, cuts or a corpus becomes a list of segments of audio files
headers.py       how long each file is, without decoding it
cutting.py       segments that are too long become pieces
planning.py      which piece goes into which shard; written down, so that an interrupted build can go on
shard_job.py     one shard: decode, check, encode, write
build.py         all of it, with the lock and the processes
card.py          dataset_card.json and durations.png
verification.py  the way back: does every shard hold what its manifest and the card say?

Nothing here imports NeMo, so that a process that builds shards starts at once.
"""
