"""Makes a teacher for offline relabelling: k-means on the output of one layer of a trained model.

    python scripts/cluster_labels.py best_rq.nemo train.json --layer 9 --clusters 500 --out teacher.pt

The same as ``birq cluster-labels``; --help explains it.
"""

from nemo_birq.command_line.command import run_script
from nemo_birq.extraction.clustering_command import cluster_labels

if __name__ == "__main__":
    run_script(cluster_labels, __file__)
