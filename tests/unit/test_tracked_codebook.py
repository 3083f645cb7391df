"""The tracked codebook: online k-means on the unit sphere."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from nemo_birq.checkpoint import artifacts
from nemo_birq.labels import tracked_codebook
from nemo_birq.labels.enhanced import EnhancedLabeler
from nemo_birq.labels.normalization import LayerNormalization
from nemo_birq.labels.quantizer import RandomProjectionQuantizer, draw_codebook
from nemo_birq.labels.tracked_codebook import CodebookTracking
from tests.helpers.models import make_model, trained_model

pytestmark = pytest.mark.unit


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def units(count: int, dim: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, 1, dim, generator=generator(seed)), dim=-1)


def quantizer(codes: int, dim: int) -> RandomProjectionQuantizer:
    return RandomProjectionQuantizer(torch.eye(dim)[None], draw_codebook(1, codes, dim, generator(9)))


def clusters(count: int, seed: int) -> torch.Tensor:
    """Makes frames around 8 directions in 16 dimensions, some frequent and some rare, (N, 1, d)."""
    centres = F.normalize(torch.randn(8, 16, generator=generator(1)), dim=-1)
    weights = torch.tensor([8.0, 4, 4, 2, 2, 2, 1, 1])
    which = torch.multinomial(weights, count, replacement=True, generator=generator(seed))
    noise = 0.15 * torch.randn(count, 16, generator=generator(seed + 1000))
    return F.normalize(centres[which] + noise, dim=-1).unsqueeze(1)


def test_first_batch_places_all_codes_on_different_frames():
    own, tracking, frames = quantizer(6, 4), CodebookTracking(1, 6, 4, 0.9), units(10, 4, 0)
    tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(0))
    similarity = own.codebook[0] @ frames[:, 0].T
    assert torch.allclose(similarity.max(dim=1).values, torch.ones(6), atol=1e-6)
    assert similarity.argmax(dim=1).unique().numel() == 6


def test_update_is_the_average_of_the_nearest_frames():
    """The reference is float64 sums for each code: a plain average at first, then an exponential one. No code is unused."""
    codes, dim, momentum = 3, 5, 0.8
    own, tracking = quantizer(codes, dim), CodebookTracking(1, codes, dim, momentum)
    start = units(codes, dim, 1)
    own.codebook.copy_(start.transpose(0, 1))
    tracking.shares.fill_(1 / codes)
    tracking.sums.copy_(own.codebook / codes)
    tracking.tracked_batches.fill_(1)
    sums, book = own.codebook[0].double() / codes, own.codebook[0].double()
    for seed in range(6):
        frames = units(40, dim, 10 + seed)
        nearest = (frames[:, 0].double() @ book.T).argmax(dim=1)
        assert nearest.unique().numel() == codes
        tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(seed))
        past = min((seed + 1) / (seed + 2), momentum)  # 1/2, 2/3, 3/4: a plain average; then the momentum
        for code in range(codes):
            mean = frames[nearest == code, 0].double().sum(dim=0) / len(frames)
            sums[code] = past * sums[code] + (1 - past) * mean
        book = F.normalize(sums, dim=-1)
        assert torch.allclose(own.codebook[0].double(), book, atol=1e-6)


def cosine(frames: torch.Tensor, codes: torch.Tensor) -> float:
    """Returns the mean cosine of frames and their nearest codes."""
    return float((frames[:, 0] @ F.normalize(codes, dim=-1).T).max(dim=1).values.mean())


def test_finds_what_kmeans_finds():
    """It is as near to held-out frames as scikit-learn's k-means from random frames, over starts; far above random codes."""
    held_out, found, reference = clusters(4000, 77), [], []
    for start in range(5):
        own, tracking = quantizer(8, 16), CodebookTracking(1, 8, 16, 0.95)
        random = cosine(held_out, own.codebook[0])
        for step in range(150):
            frames = clusters(200, 1000 * start + step)
            tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(step))
        found.append(cosine(held_out, own.codebook[0]))
        kmeans = KMeans(8, n_init=1, init="random", random_state=start).fit(clusters(4000, 5)[:, 0].numpy())
        reference.append(cosine(held_out, torch.from_numpy(kmeans.cluster_centers_).float()))
    assert sum(found) / 5 > sum(reference) / 5 - 0.02 > random + 0.2


def test_a_code_that_no_frame_needs_begins_anew():
    own, tracking = quantizer(4, 16), CodebookTracking(1, 4, 16, 0.5)
    frames = clusters(500, 0)
    tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(0))
    lost = -frames[:, 0].mean(dim=0)  # far from all frames
    own.codebook[0, 2] = F.normalize(lost, dim=0)
    tracking.sums[0, 2] = own.codebook[0, 2] / 4
    for step in range(1, 6):
        tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(step))
    used = own.nearest_of_units(frames).unique()
    assert used.tolist() == [0, 1, 2, 3]


def test_nothing_moves_without_frames():
    own, tracking = quantizer(6, 4), CodebookTracking(1, 6, 4, 0.9)
    frames = units(50, 4, 0)
    tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(0))
    before = own.codebook.clone(), tracking.shares.clone(), tracking.sums.clone()
    empty = frames[:0]
    tracking.update(own.codebook, empty, torch.zeros(0, 1, dtype=torch.int64), generator(1))
    for old, new in zip(before, (own.codebook, tracking.shares, tracking.sums), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("books", [2, 3])
def test_codebooks_are_tracked_each_by_itself(books):
    frames = torch.cat([units(60, 8, seed) for seed in range(books)], dim=1)
    book = draw_codebook(books, 5, 8, generator(3))
    own = RandomProjectionQuantizer(torch.zeros(books, 8, 8), book)
    together = CodebookTracking(books, 5, 8, 0.7)
    for step in range(5):
        together.update(own.codebook, frames, own.nearest_of_units(frames), generator(step))
    for k in range(books):
        alone = quantizer(5, 8)
        single = CodebookTracking(1, 5, 8, 0.7)
        for step in range(5):
            single.update(
                alone.codebook, frames[:, k : k + 1], alone.nearest_of_units(frames[:, k : k + 1]), generator(step)
            )
        assert torch.allclose(own.codebook[k], alone.codebook[0], atol=1e-6)


def test_unused_codes_are_replaced_a_few_at_a_time():
    """Most of 1,000 codes have no frame of ten directions: all fall below the threshold, and at most ten go in a step."""
    own, tracking = quantizer(1000, 16), CodebookTracking(1, 1000, 16, 0.9)
    changed, least_used = [], []
    for step in range(40):
        frames = clusters(300, step)
        before, shares = own.codebook.clone(), tracking.shares.clone()
        tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(step))
        anew = tracking.shares[0] == 1 / 1000
        changed.append(int(anew.sum()))
        if step > 1 and anew.any():
            least_used.append(float(shares[0, anew].max()) <= float(shares[0].sort().values[:30].max()))
        assert step == 0 or tracking.take_replaced() == pytest.approx(changed[-1] / 1000)
        assert torch.equal(before[0, ~anew & (shares[0] == 0)], own.codebook[0, ~anew & (shares[0] == 0)])
    assert changed[0] == 1000 and max(changed[1:]) == 10 and sum(c == 10 for c in changed) > 20
    assert all(least_used)


def test_a_small_codebook_replaces_one_code_at_a_time():
    own, tracking = quantizer(4, 16), CodebookTracking(1, 4, 16, 0.5)
    frames = F.normalize(clusters(500, 0).mean(dim=0, keepdim=True) + 0.01 * units(500, 16, 3), dim=-1)
    for step in range(12):
        tracking.update(own.codebook, frames, own.nearest_of_units(frames), generator(step))
        assert step == 0 or tracking.take_replaced() <= 1 / 4


@pytest.mark.parametrize(("ranks", "frames", "codes"), [(8, 16, 128), (8, 16, 100), (3, 10, 29), (4, 5, 40)])
def test_fresh_codes_of_all_ranks_repeat_no_frame_before_all_were_taken(ranks, frames, codes, monkeypatch):
    """Sums over ranks are computed in sequence, each with its own frames and generator."""
    monkeypatch.setattr(tracked_codebook, "world_size", lambda: ranks)
    total = torch.zeros(1, codes, 4)
    for number in range(ranks):
        monkeypatch.setattr(tracked_codebook, "rank", lambda number=number: number)
        total += tracked_codebook._fresh_codes(units(frames, 4, number), codes, generator(number))
    assert torch.allclose(total.norm(dim=2), torch.ones(1, codes))
    assert len(total[0].unique(dim=0)) == min(codes, ranks * frames)


def test_a_file_without_the_number_of_batches_goes_on_with_its_averages():
    """Earlier versions did not save it: a plain average over the next batches would forget all that is in the file."""
    model = make_model(birq__labels__codebook="tracked")
    saved = artifacts.labels_of(trained_model(birq__labels__codebook="tracked"))
    assert saved["tracked_batches"] == 2
    old = {name: tensor for name, tensor in saved.items() if name not in ("tracked_batches", "replaced")}
    artifacts.restore_labels(model, saved)
    assert model.enhanced_labeler.tracking.tracked_batches == 2
    artifacts.restore_labels(model, old)
    labeler = model.enhanced_labeler
    frames = units(50, 8, 1)
    labeler.tracking.update(labeler.quantizer.codebook, frames, torch.zeros(50, 1, dtype=torch.int64), generator(0))
    kept = labeler.tracking.shares[0, 1:] / saved["shares"][0, 1:]
    assert float(kept[saved["shares"][0, 1:] > 0.2 / 24].min()) == pytest.approx(0.99, abs=1e-4)


def test_the_labels_of_a_step_come_from_the_codes_before_it():
    """Frames of the batch replace unused codes; no frame has its own copy, which no head has seen, as its label."""
    codes, dim = 300, 16
    own, tracking = quantizer(codes, dim), CodebookTracking(1, codes, dim, 0.5)
    normalization = LayerNormalization(dim, "layer_norm", 0.9)
    labeler = EnhancedLabeler(own, normalization, 40.0, 1.0, True, 0.0, tracking=tracking).train()
    replaced = 0.0
    for step in range(30):
        hidden, before = clusters(30, step)[None, :, 0], own.codebook.clone()
        targets = labeler(hidden, torch.ones(1, 30, dtype=torch.bool), torch.arange(30), generator(step))
        nearest = targets.select(slice(None), 0, generator(0)).nearest
        similarity = targets.units[:, 0].double() @ before[0].double().T
        # Equal codes exist: the first batch has fewer frames than there are codes.
        chosen = similarity.gather(1, nearest[:, None])[:, 0]
        assert torch.allclose(chosen, similarity.max(dim=1).values, atol=1e-6)
        after = (targets.units[:, 0] @ own.codebook[0].T).max(dim=1).values
        assert step > 0 or (float(after.min()) > 0.999 and float(chosen.max()) < 0.95)
        replaced = max(replaced, tracking.take_replaced())
    assert replaced > 0
