"""Builds tar shards in NeMo's format from audio of any kind.

    python scripts/make_shards.py folder /data/podcasts --out /data/shards

The same as ``birq make-shards``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.data.shards.build_command import make_shards

if __name__ == "__main__":
    run_script(make_shards, __file__)
