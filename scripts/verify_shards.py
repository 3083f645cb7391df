"""Checks shard sets.

    python scripts/verify_shards.py /data/shards

The same as ``birq verify-shards``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.data.shards.verify_command import verify_shards

if __name__ == "__main__":
    run_script(verify_shards, __file__)
