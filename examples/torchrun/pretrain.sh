#!/bin/bash
# Pretrains on several nodes with torchrun. Run the same line on each node, with its NODE_RANK from 0 to NNODES - 1:
#
#     NNODES=2 NODE_RANK=0 MASTER_ADDR=node0 examples/torchrun/pretrain.sh --config-name=birq_conformer_large name=large \
#         exp_manager.exp_dir=/shared/experiments model.train_ds.manifest_filepath=... model.validation_ds.manifest_filepath=...
#
# The arguments are those of birq pretrain. If a node fails, the processes of all nodes end. Run the line again, with the
# same or another number of nodes (docs/scale.md).
set -euo pipefail

: "${NNODES:?number of nodes}" "${NODE_RANK:?number of this node, from 0}" "${MASTER_ADDR:?host of node 0}"
devices="${DEVICES:-8}" # of each node

export OMP_NUM_THREADS=1
exec torchrun --nnodes="$NNODES" --node-rank="$NODE_RANK" --nproc-per-node="$devices" \
    --master-addr="$MASTER_ADDR" --master-port="${MASTER_PORT:-29500}" \
    --no-python birq pretrain "$@" trainer.num_nodes="$NNODES" trainer.devices="$devices" trainer.strategy=ddp
