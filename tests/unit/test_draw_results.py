"""Pages of results: the statistics against closed forms, the tables against numbers worked out by hand."""

import copy
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from experiments.drawing import statistics
from experiments.drawing.ablation_table import ablation_table, collapse
from experiments.drawing.error_tables import difference_table, rate_table, size_of_test_set, summary_table
from experiments.drawing.label_tables import cost_table, label_table
from experiments.drawing.page import DETAILS, draw_pages, replace_part
from experiments.drawing.records import read_groups
from experiments.drawing.statistics import Counts, crossed_interval, difference_of, rate_of, t_interval
from experiments.drawing.style import mean_curve
from scipy import stats

from tests.helpers.scripts import run

pytestmark = pytest.mark.unit
PAGE = "# Title\n\nWritten by people.\n\n" + "\n\nBetween.\n\n".join(
    f"<!-- begin: {name} -->\nold {name}\n<!-- end: {name} -->" for name in DETAILS
)
# As logged by a run of conf/birq_conformer_tiny.yaml: validation at 10 steps, training at 20.
LOSSES = {"anchor": (6.1, 3.6, 4.5), "enhanced": (6.0, 2.7, 4.9)}


def curves(entropy: tuple[float, float], enhanced: bool, noise: np.random.Generator, steps: int = 1000) -> dict:
    """Makes curves with the tags of a training, from a first value to a last one."""
    found = {}
    length = steps
    for stage, points in (("train", 20), ("val", 6)):
        steps = np.linspace(0, length - 1, points).astype(int)

        def line(first: float, last: float, steps=steps) -> list:
            values = np.linspace(first, last, len(steps)) + noise.normal(0, 0.01, len(steps))
            return [[int(step), float(value)] for step, value in zip(steps, values, strict=True)]

        for task, (first, last, unigram) in LOSSES.items():
            if task == "anchor" or enhanced:
                found[f"{stage}_{task}_loss"] = line(first, last)
                found[f"{stage}_{task}_unigram_entropy"] = line(unigram, unigram)
        if enhanced:
            found[f"{stage}_enhanced_normalized_entropy"] = line(*entropy)
            found[f"{stage}_enhanced_perplexity"] = line(80, 114)
            found[f"{stage}_selection_agreement"] = line(0.8, 0.7)
    if enhanced:
        found["train_gradient_cosine"] = [[step, float(noise.normal(0.2, 0.05))] for step in (199, 399, 599, 799, 999)]
    return found


def stage(steps: int, curves: dict, **changes: object) -> dict:
    final = {tag: points[-1][1] for tag, points in curves.items() if tag.startswith("val_")}
    cost = {"audio_hours_seen": 4.0, "seconds": 1800.0, "processor_seconds": 1750.0, "peak_memory_gb": 1.5}
    return {"steps": steps} | cost | {"curves": curves, "final": final, "alarms": []} | changes


def made_up(method: str, seed: int, cer: float, kind: str = "method", entropy: tuple[float, float] = (0.8, 0.76)) -> dict:
    """Makes a record with the keys of scripts/experiment.py; 12 speakers with 5 utterances of 40 characters in 8 words."""
    noise = np.random.default_rng([seed, *method.encode()])
    enhanced = method not in ("scratch", "best_rq", "relabelled")
    one = stage(1000, curves(entropy, enhanced, noise))
    half = [stage(500, curves(entropy, enhanced, noise, 500)) for _ in range(2)]
    clustering = stage(0, {}, audio_hours_seen=0.0, seconds=60.0)
    pretraining = {"scratch": None, "relabelled": {"stages": [half[0], clustering, half[1]]}}
    rate = cer + noise.normal(0, 0.01)
    errors = [
        [f"utterance-{speaker}-{i}", f"speaker-{speaker}", *pair]
        for speaker in range(12)
        for i in range(5)
        for pair in [(int(noise.binomial(40, rate)), 40, int(noise.binomial(8, min(0.95, 1.4 * rate))), 8)]
    ]
    pnmi = [(1000, "kmeans", layer, 0.2 + layer / 20) for layer in (1, 2, 3)]
    for step in (200, 600, 1000):
        first = (step, "relabelled", None, 0.45) if method == "relabelled" else (step, "anchor", None, 0.25)
        pnmi += [first, (step, "enhanced", 3, 0.2 + step / 5000)]
    rows = [dict(zip(("step", "labels", "layer", "pnmi"), row, strict=True)) | {"pnmi_by_chance": 0.02} for row in pnmi]
    loss = {"start_step": 100, "ramp_steps": 100}
    learned = [[step, 1 - step / 600 * (1 - rate)] for step in (200, 400, 600)]
    return {
        "schema": 1, "budget": "cpu", "corpus": "synthetic", "method": method, "kind": kind, "seed": seed,
        "description": f"what {method} is", "overrides": [], "commands": [f"python scripts/x.py seed={seed}"],
        "config": {"seed": seed, "model": {"birq": {"loss": loss}}}, "finetune_config": {"model": {"use_cer": True}},
        "versions": {"nemo_birq": "0.1", "git": "abc", "torch": "2.9"}, "parameters": 1_800_000,
        "machine": {"cpu": "a processor", "cores": 2, "gpu": None, "memory_gb": 16},
        "pretraining": pretraining.get(method, one), "labels": rows,
        "finetuning": stage(600, {"val_wer": learned}, labelled_hours=0.5),
        "scores": {
            "cer": sum(row[2] for row in errors) / sum(row[3] for row in errors),
            "wer": sum(row[4] for row in errors) / sum(row[5] for row in errors),
            "cer_interval": None, "wer_interval": None, "words": 480, "characters": 2400, "utterances": 60, "errors": errors,
        },
    }  # fmt: skip


def write(folder: Path, *records: dict) -> Path:
    for record in records:
        path = folder / record["budget"] / record["corpus"] / f"{record['method']}_seed{record['seed']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def records() -> list[dict]:
    rates = {"scratch": 0.7, "best_rq": 0.5, "relabelled": 0.48, "birq": 0.45}
    found = [made_up(method, seed, rate) for method, rate in rates.items() for seed in (0, 1, 2)]
    return [
        *found,
        *(made_up("one_head", seed, 0.5, "ablation") for seed in (0, 1)),
        made_up("paper", 0, 0.55, "ablation", entropy=(0.8, 0.1)) | {"scores": None, "finetuning": None},
    ]


@pytest.fixture
def folder(tmp_path: Path, records: list[dict]) -> Path:
    return write(tmp_path / "experiments", *records)


# --- Statistics -------------------------------------------------------------------------------------------------------


def test_the_t_interval_is_scipys():
    values = np.array([0.031, -0.012, 0.044, 0.02])
    found = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((found.low, found.high), abs=1e-12)
    assert t_interval(values[:1]) is None


def test_with_one_seed_the_crossed_bootstrap_is_scipys_over_speakers():
    generator = np.random.default_rng(0)
    units = generator.integers(50, 150, 40).astype(float)
    errors = generator.binomial(units.astype(int), 0.3).astype(float)
    found = stats.bootstrap(
        (errors, units), lambda e, u, axis: e.sum(axis) / u.sum(axis), paired=True, method="percentile", n_resamples=10_000,
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert crossed_interval(errors[None], units) == pytest.approx((found.low, found.high), abs=1e-3)


def test_the_variance_of_the_crossed_bootstrap_has_its_closed_form():
    """Equal units: of the mean of a_s + b_p, drawn again, it is var(a) / S + var(b) / P, with variances over n."""
    generator = np.random.default_rng(2)
    of_seeds, of_rows = generator.normal(0, 3, 8), generator.normal(0, 5, 50)
    errors = 100 + of_seeds[:, None] + of_rows
    deviation = math.sqrt(of_seeds.var() / 8 + of_rows.var() / 50) / 10
    low, high = crossed_interval(errors, np.full(50, 10.0))
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.05)
    assert (low + high) / 2 == pytest.approx(errors.mean() / 10, abs=0.1 * deviation)


def test_how_often_the_crossed_interval_holds_the_truth(monkeypatch):
    """With many seeds, it does so nearly as often as it should; with three that differ as much as speakers, too seldom."""
    monkeypatch.setattr(statistics, "RESAMPLES", 600)
    generator = np.random.default_rng(3)

    def coverage(num_seeds: int, rounds: int = 200) -> float:
        hits = 0
        for _ in range(rounds):
            rates = 0.5 + generator.normal(0, 0.02, (num_seeds, 1)) + generator.normal(0, 0.04, 30)
            low, high = crossed_interval(rates * 100 + generator.normal(0, 2, rates.shape), np.full(30, 100.0))
            hits += low <= 0.5 <= high
        return hits / rounds

    assert coverage(20) > 0.88
    assert 0.65 < coverage(3) < 0.93  # too narrow, hence the t interval beside it


def test_a_difference_by_hand():
    units = np.array([10.0, 30.0])
    method = Counts((0, 1, 5), np.array([[1, 3], [3, 5], [9, 9]], float), units, "speakers")
    baseline = Counts((1, 0), np.array([[4, 8], [2, 4]], float), units, "speakers")
    found = difference_of(method, baseline)  # seed 0: 4 - 6 = -2; seed 1: 8 - 12 = -4 of 40; seed 5 has no pair
    assert found.seeds == 2
    assert found.mean == pytest.approx(-3 / 40)
    assert found.relative == pytest.approx(-3 / 9)
    half = stats.t.ppf(0.975, 1) * (math.sqrt(2) / 40) / math.sqrt(2)
    assert found.seed_interval == pytest.approx((-3 / 40 - half, -3 / 40 + half))
    assert found.p == pytest.approx(0.5)  # speakers: 4 - 6 and 8 - 12; 2 of the 4 exchanges are as far from 0
    assert not found.is_significant
    assert difference_of(method, Counts((7,), baseline.errors[:1], units, "speakers")) is None


def test_seeds_of_equal_differences_are_no_proof_on_few_speakers():
    units = np.full(4, 100.0)
    baseline = Counts((0, 1, 2), np.full((3, 4), 50.0), units, "speakers")
    better = Counts((0, 1, 2), np.full((3, 4), 40.0) + np.arange(3)[:, None], units, "speakers")
    found = difference_of(better, baseline)
    assert found.seed_interval[1] < 0 and found.p == 2 / 2**4 and not found.is_significant


def test_the_rate_of_seeds():
    found = rate_of(Counts((0, 1), np.array([[1.0, 2], [3, 4]]), np.array([10.0, 10]), "speakers"))
    assert (found.mean, found.deviation) == pytest.approx((0.25, np.std([0.15, 0.35], ddof=1)))


def test_mean_of_curves_with_different_steps():
    assert mean_curve([[(0, 0.0), (10, 10.0)], [(5, 1.0), (10, 3.0), (20, 9.0)]]) == [(5, 3.0), (10, 6.5)]


# --- Tables -----------------------------------------------------------------------------------------------------------


def tiny(method: str, seed: int, characters: tuple[int, int]) -> dict:
    record = made_up(method, seed, 0.5)
    record["scores"]["errors"] = [[f"u{i}", None, errors, 10, 1, 2] for i, errors in enumerate(characters)]
    record["scores"] |= {"cer": sum(characters) / 20, "wer": 0.5, "words": 4, "characters": 20, "utterances": 2}
    return record


def test_small_tables_word_for_word(tmp_path: Path):
    values = {("best_rq", 0): (4, 6), ("best_rq", 1): (6, 6), ("birq", 0): (3, 5), ("birq", 1): (4, 4)}
    (group,) = read_groups(write(tmp_path, *(tiny(*key, counts) for key, counts in values.items())))
    assert rate_table(group) == (
        "| method | seeds | CER % | 95 % | WER % | 95 % |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| `best_rq` | 2 | 55.0 ± 7.1 | 40.0 to 60.0 | 50.0 ± 0.0 | 50.0 to 50.0 |\n"
        "| `birq` | 2 | 40.0 ± 0.0 | 30.0 to 50.0 | 50.0 ± 0.0 | 50.0 to 50.0 |"
    )
    # Differences of the seeds: -2 and -4 of 20; t(1) = 12.7 times 5 points.
    assert [difference_table(group, rate).splitlines()[2] for rate in ("cer", "wer")] == [
        "| `birq` − `best_rq` | 2 | -15.0 | -27 % | -20.0 to -10.0 | -78.5 to +48.5 | 0.500 |",
        "| `birq` − `best_rq` | 2 | +0.0 | +0 % | +0.0 to +0.0 | +0.0 to +0.0 | 1.000 |",
    ]


def test_so_few_rows_that_nothing_can_be_shown_are_told(tmp_path: Path, folder: Path):
    (group,) = read_groups(write(tmp_path / "two", tiny("best_rq", 0, (4, 6)), tiny("birq", 0, (3, 5))))
    assert size_of_test_set(group).endswith("With so few utterances p cannot be below 0.500, and nothing is bold.")
    assert "so few" not in size_of_test_set(*read_groups(folder))


def test_rows_stand_in_order_and_baselines_are_compared(folder: Path):
    (group,) = read_groups(folder)
    assert list(group.methods) == ["scratch", "best_rq", "relabelled", "birq", "one_head", "paper"]
    assert not group.warnings
    names = re.findall(r"^\| (`.*?`) \|", difference_table(group, "cer"), re.M)
    assert names == [
        "`relabelled` − `best_rq`", "`birq` − `best_rq`",
        "`best_rq` − `scratch`", "`relabelled` − `scratch`", "`birq` − `scratch`",
        "`birq` − `relabelled`",
    ]  # fmt: skip
    row = next(line for line in difference_table(group, "cer").splitlines() if "`birq` − `scratch`" in line)
    assert "| **-2" in row  # 25 points with a deviation of 1


def test_labels_and_cost(folder: Path):
    (group,) = read_groups(folder)
    birq = next(line for line in label_table(group).splitlines() if "birq" in line)
    assert birq == "| `birq` | 3 | 0.250 ± 0.000 | 0.020 | 0.400 ± 0.000 | 0.020 | 0.350 ± 0.000 (3) | 0.020 |"
    relabelled = next(line for line in label_table(group).splitlines() if "relabelled" in line)
    assert relabelled.startswith("| `relabelled` | 3 | – | – | 0.450 ± 0.000 |")  # its teacher's, not those of its layer k
    assert "| `relabelled` | 500 + 500 | 8.0 | 61 min | 88 min | 1.5 | 0 |" in cost_table(group)
    assert "scratch" not in cost_table(group)


def test_nearest_codes_have_a_column_where_runs_know_them(folder: Path, tmp_path: Path):
    assert "nearest codes" not in label_table(*read_groups(folder))
    record = made_up("birq", 0, 0.5)
    record["labels"] += [{"step": 1000, "labels": "nearest", "layer": 3, "pnmi": 0.33, "pnmi_by_chance": 0.02}]
    header, _, row = label_table(*read_groups(write(tmp_path / "known", record))).splitlines()
    column = header.split("|").index(" nearest codes ")
    assert row.split("|")[column : column + 2] == [" 0.330 ", " 0.020 "]


def test_ablations(folder: Path):
    (group,) = read_groups(folder)
    rows = {row.split("`")[1]: [cell.strip() for cell in row.split("|")] for row in ablation_table(group).splitlines()[2:]}
    assert list(rows) == ["best_rq", "birq", "one_head", "paper"]
    assert [rows[name][4] for name in rows] == ["–", "no", "no", "**yes**, from step 736"]  # 0.8 falls to 0.1
    assert rows["paper"][5:7] == ["–", "–"] and rows["birq"][6] == "–"
    loss, unigram = map(float, rows["birq"][7].split(" / "))
    assert (loss, unigram) == pytest.approx((3.6, 4.5), abs=0.03)


def test_collapse_counts_from_where_the_weight_is_full(tmp_path: Path):
    record = made_up("birq", 0, 0.5)
    record["pretraining"]["curves"]["train_enhanced_normalized_entropy"] = [[0, 0.1], [199, 0.29], [200, 0.3], [999, 0.31]]
    record["pretraining"]["curves"]["val_enhanced_normalized_entropy"] = [[99, 0.1], [999, 0.5]]
    other = copy.deepcopy(record) | {"seed": 1}
    third = copy.deepcopy(record) | {"seed": 2}
    third["pretraining"]["curves"]["val_enhanced_normalized_entropy"][1][1] = 0.2
    other["pretraining"]["curves"]["train_enhanced_normalized_entropy"][2][1] = 0.29
    (group,) = read_groups(write(tmp_path, record, other, third))
    first, second, third = group.methods["birq"]
    assert collapse([first]) == "no"
    assert collapse([second]) == "**yes**, from step 200"
    assert collapse([third]) == "**yes**, from step 999"
    assert collapse([first, second]) == "**1 of 2 seeds**, from step 200"


def test_relabelling_goes_on_where_its_teacher_ended(folder: Path):
    (group,) = read_groups(folder)
    run = group.methods["relabelled"][0]
    steps = [step for step, _ in run.curve("val_anchor_loss")]
    assert steps == [0, 99, 199, 299, 399, 499, 499.5, 500, 599, 699, 799, 899, 999]
    assert run.quality("own")[-1]["step"] == 500 + 1000
    assert run.spent("seconds") == 3660


# --- The page ---------------------------------------------------------------------------------------------------------


def test_only_what_is_between_markers_changes():
    text = PAGE
    for name in DETAILS:
        text = replace_part(text, name, f"new {name}")
    assert re.sub(r"\n\nnew (\w+)\n\n", r"\nold \1\n", text) == PAGE


def test_pages_as_a_user_draws_them(folder: Path, tmp_path: Path):
    summary, page = (tmp_path / "docs" / name for name in ("results.md", "results_synthetic.md"))
    page.parent.mkdir()
    page.write_text(PAGE)
    assert "15 runs of 6 settings" in run("draw_results.py", str(folder), "--out", str(summary))
    first = page.read_text()
    for text in ("# Title", "Written by people.", "Between."):
        assert text in first
    assert "old errors" not in first
    assert "[../experiments/cpu/synthetic/](../experiments/cpu/synthetic/)" in first
    assert (page.parent / "../experiments/cpu/synthetic").is_dir()
    assert "[All tables and pictures of these 15 runs](results_synthetic.md)" in summary.read_text()
    linked = re.findall(r"\]\((pictures/.*?\.png)\)", first)
    assert len(linked) == 6 and all((page.parent / name).stat().st_size < 150_000 for name in linked)
    pictures = {name: (page.parent / name).read_bytes() for name in linked}
    texts = [path.read_text() for path in (summary, page)]
    draw_pages(read_groups(folder), summary)
    assert [path.read_text() for path in (summary, page)] == texts
    assert {name: (page.parent / name).read_bytes() for name in linked} == pictures


def test_the_summary_compares_with_best_rq(folder: Path):
    (group,) = read_groups(folder)
    header, _, *rows = summary_table(group).splitlines()
    assert header.endswith("| CER − `best_rq` | 95 %, t over seeds |")
    cells = {row.split("`")[1]: [cell.strip() for cell in row.split("|")] for row in rows}
    assert cells["birq"][1] == "BiRQ, random codes (`birq`)"
    assert list(cells) == ["scratch", "best_rq", "relabelled", "birq"] and cells["best_rq"][5:7] == ["–", "–"]
    compared = next(row for row in difference_table(group, "cer").splitlines() if "`birq` − `best_rq`" in row).split("|")
    assert cells["birq"][5:7] == [compared[3].strip(), compared[6].strip()]
    opposite = next(row for row in difference_table(group, "cer").splitlines() if "`best_rq` − `scratch`" in row)
    assert cells["scratch"][5] == opposite.split("|")[3].strip().replace("-", "+")


def test_budgets_without_recognizers_come_last_and_have_a_page_of_their_own(tmp_path: Path):
    unscored = {"budget": "ablations", "scores": None, "finetuning": None}
    folder = write(tmp_path / "experiments", made_up("birq", 0, 0.5), made_up("paper", 0, 0.5, "ablation") | unscored)
    groups = read_groups(folder)
    assert [group.budget for group in groups] == ["cpu", "ablations"]
    draw_pages(groups, tmp_path / "results.md")
    scored, other = ((tmp_path / f"results_{name}.md").read_text() for name in ("synthetic", "ablations"))
    assert "### cpu, synthetic" in scored and "### ablations, synthetic" not in scored
    assert "### cpu, synthetic" not in other and "## Errors" not in other and "| `paper` |" in other and "CER" not in other


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("<!-- end: labels -->", "", r"results_synthetic\.md\D*0\D.*<!-- end: labels -->"),
        (
            "<!-- begin: labels -->",
            "<!-- begin: labels --><!-- begin: labels -->",
            r"results_synthetic\.md\D*2\D.*begin: labels",
        ),
        ("Between.", "<!-- begin: typo -->", r"results_synthetic\.md.*'typo'"),
        ("<!-- end: errors -->", "", r"results_synthetic\.md\D*0\D.*<!-- end: errors -->"),
    ],
)
def test_markers_that_are_wrong(folder: Path, tmp_path: Path, old: str, new: str, said: str):
    page = tmp_path / "results_synthetic.md"
    page.write_text(PAGE.replace(old, new, 1))
    before = page.read_text()
    with pytest.raises(ValueError, match=said):
        draw_pages(read_groups(folder), tmp_path / "results.md")
    assert page.read_text() == before and not (tmp_path / "pictures").exists()


def test_a_page_without_markers_is_not_touched(folder: Path, tmp_path: Path):
    (tmp_path / "results.md").write_text("My own notes.")
    with pytest.raises(ValueError, match=r"results\.md has no markers.*summary"):
        draw_pages(read_groups(folder), tmp_path / "results.md")
    assert [path.name for path in tmp_path.glob("*.md")] == ["results.md"]


def test_parts_inside_each_other(folder: Path, tmp_path: Path):
    page = tmp_path / "results_synthetic.md"
    page.write_text(PAGE.replace("<!-- end: errors -->", "").replace("old labels", "<!-- end: errors -->"))
    with pytest.raises(ValueError, match=r"results_synthetic\.md.*\border\b"):
        draw_pages(read_groups(folder), tmp_path / "results.md")


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_no_files(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.*experiment\.py"):
        read_groups(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(schema=2), r"\bschema 2\b"),
        (lambda r: r.pop("schema"), "'schema'"),
        (lambda r: r.pop("labels"), r"\blabels\b"),
        (lambda r: r["pretraining"].pop("final"), r"pretraining\[0\]\.final"),
        (lambda r: r["scores"].pop("errors"), r"scores\.errors(?!.*(\d|utterance))"),
        (lambda r: r["scores"].update(cer=0.1), r"scores\.cer.*0\.1000.*scores\.errors.*0\.\d{4}"),
        (lambda r: r["scores"]["errors"].append(r["scores"]["errors"][0]), r"scores\.errors.*\butterance\b"),
        (lambda r: r.update(kind="other"), r"\bkind\b.*'other'"),
    ],
)
def test_files_that_are_wrong_are_named(tmp_path: Path, change, said: str):
    record = made_up("birq", 0, 0.5)
    change(record)
    with pytest.raises(ValueError, match=rf"birq_seed0\.json.*{said}"):
        read_groups(write(tmp_path, record))


def test_not_json(tmp_path: Path):
    (tmp_path / "notes.json").write_text("{")
    with pytest.raises(ValueError, match=r"notes\.json.*line 1 column 2"):
        read_groups(tmp_path)


def test_the_same_run_twice_and_another_test_set(tmp_path: Path):
    record = made_up("birq", 0, 0.5)
    write(tmp_path, record)
    (tmp_path / "copy.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"birq_seed0\.json.*copy\.json"):
        read_groups(tmp_path)
    (tmp_path / "copy.json").unlink()
    other = made_up("best_rq", 0, 0.5)
    other["scores"]["errors"][0][0] = "another"
    with pytest.raises(ValueError, match=r"birq_seed0\.json.*best_rq_seed0\.json.*utterance another"):
        read_groups(write(tmp_path, other))


def test_mixed_settings_are_told(tmp_path: Path):
    runs = [made_up("birq", seed, 0.5) for seed in (0, 1)]
    runs[1]["config"]["model"]["birq"]["loss"]["ramp_steps"] = 50
    runs[1]["machine"]["cores"] = 64
    other = made_up("best_rq", 0, 0.5)
    other["finetune_config"]["lr"] = 1
    (group,) = read_groups(write(tmp_path, *runs, other))
    told = "\n".join(group.warnings)
    assert "runs of birq differ in more than the seed (config: model.birq.loss.ramp_steps)" in told
    assert "not fine-tuned alike (lr)" in told
    assert "The runs used different machines (cores)" in told
    assert "same seeds (best_rq 0; birq 0, 1)" in told
