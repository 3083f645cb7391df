"""``birq verify-shards``: the check of shard sets."""

import os
import sys
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH_OR_URL, command
from nemo_birq.data.shards.ray_cluster import choose_workers
from nemo_birq.data.shards.stored import StoredFolder
from nemo_birq.data.shards.verify import verify
from nemo_birq.data.shards.verify_files import verify_files
from nemo_birq.data.shards.writer import AUDIO, MANIFEST
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.terminal import Terminal

MAX_ROWS = 200


@command("verify-shards")
@options.argument("folder", "folder of one or more shard sets, or its URL", type=PATH_OR_URL)
@options.option("--fast", is_flag=True, help="Do not decode the members, read only their headers.")
@options.workers_option(os.cpu_count(), "Processes.")
@options.ray_option("Check on a Ray cluster, a task a shard; without an address a running one, or one of this machine.")
def verify_shards(folder: Path | str, fast: bool, workers: int, ray: str | None) -> None:
    """Checks shard sets: members against manifest lines, files against checksums, and every clip by decoding it.

        birq verify-shards /data/shards            all of it
        birq verify-shards /data/shards --fast     members are not decoded, only their headers are read
        birq verify-shards s3://bucket/shards      each shard is copied, checked and removed

    Works on the output of birq make-shards, one bucket of it, its single files, and on other shards in NeMo's format. The
    exit code is 1 if anything is wrong.
    """
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with ProgressBars(*columns, console=Terminal(stderr=True)) as progress:
        is_of_files = {AUDIO, MANIFEST} <= StoredFolder(folder).tops()
        check = verify_files if is_of_files else verify
        problems, members = check(folder, decode=not fast, workers=choose_workers(workers, ray), progress=progress)
    if not problems:
        Terminal().print(f"{folder}: {members:,} members, nothing wrong", soft_wrap=True)
        return
    table = Table("shard", "member", "problem", title=f"{len(problems):,} problems, {members:,} members")
    for problem in problems[:MAX_ROWS]:
        table.add_row(*map(Text, problem))
    if len(problems) > MAX_ROWS:
        table.add_row("...", "", f"{len(problems) - MAX_ROWS:,} more")
    Terminal(width=None if sys.stdout.isatty() else 160).print(table)
    sys.exit(1)
