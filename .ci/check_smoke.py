"""What must be true of the four json files of the smoke budget: python .ci/check_smoke.py FOLDER."""

import json
import math
import sys
from pathlib import Path
from statistics import mean


def falls(losses: list[float]) -> bool:
    """Returns whether the second half is lower on average: the batches of single steps are of unequal difficulty."""
    half = len(losses) // 2
    return half > 0 and mean(losses[-half:]) < mean(losses[:half])


METHODS = {"scratch": 0, "best_rq": 1, "birq": 1, "relabelled": 3}  # stages of pretraining

runs = {name: json.loads(Path(sys.argv[1], f"{name}_seed0.json").read_text(encoding="utf-8")) for name in METHODS}
first_losses = set()
for name, run in runs.items():
    pretraining = run["pretraining"]
    assert run["schema"] == 1 and (run["method"], run["kind"], run["seed"]) == (name, "method", 0)
    assert not any(str(part) in json.dumps(run) for part in (Path.cwd(), Path(sys.argv[1]).parents[2])), "a path is left"
    assert (pretraining is None) == (METHODS[name] == 0)
    if pretraining:
        stages = pretraining.get("stages", [pretraining])
        assert len(stages) == METHODS[name]
        for key in ("steps", "audio_hours_seen", "seconds", "processor_seconds"):
            assert math.isclose(sum(stage[key] for stage in stages), pretraining[key], rel_tol=1e-3), (name, key)
        assert pretraining["steps"] == 24 and pretraining["processor_seconds"] > 5 and pretraining["peak_memory_gb"] > 0.3
        assert all(math.isfinite(value) for curve in pretraining["curves"].values() for _, value in curve)
        first = pretraining.get("stages", [pretraining])[0]["curves"]["train_anchor_loss"]
        first_losses.add(first[0][1])
        assert falls([loss for _, loss in first]), (name, first)
    assert run["labels"] and all(0 < row["pnmi"] <= 1 for row in run["labels"])
    errors = run["scores"]["errors"]
    assert abs(sum(row[2] for row in errors) / sum(row[3] for row in errors) - run["scores"]["cer"]) < 1e-4
    losses = [value for _, value in run["finetuning"]["curves"]["train_loss"]]
    assert falls(losses), (name, losses)
assert len(first_losses) == 1, f"methods do not begin alike: {first_losses}"
assert len({run["parameters"] for run in runs.values()}) == 1
assert [row["step"] for row in runs["birq"]["labels"] if row["labels"] == "enhanced"] == [12, 24]
assert {row["labels"] for row in runs["relabelled"]["labels"]} == {"relabelled", "enhanced", "nearest", "kmeans"}
print(f"{len(runs)} runs, the first anchor loss of all is {first_losses.pop()}")
