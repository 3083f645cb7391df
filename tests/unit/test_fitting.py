"""Fitted quantizers: principal components and k-means codes, compared with their definitions, and the fit in a run."""

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from nemo_birq import BiRQModel
from nemo_birq.checkpoint import artifacts
from nemo_birq.config import parse
from nemo_birq.labels.factory import begin_step
from nemo_birq.labels.fitting import FitSchedule, QuantizerFitting
from nemo_birq.labels.kmeans import fit_on_sphere, matched, nearest_on_sphere
from nemo_birq.labels.pca import pca_projection, principal_components
from nemo_birq.labels.quantizer import RandomProjectionQuantizer, draw_codebook, draw_projection
from nemo_birq.losses.bilevel import Weights
from tests.helpers.models import generator, make_batch, make_model, train

pytestmark = pytest.mark.unit
FITTED = {
    "birq__anchor__projection": "pca", "birq__anchor__codes": "kmeans", "birq__anchor__fit_steps": 2,
    "birq__anchor__fit_frames": 400, "birq__labels__label_gradient": 0.0,
}  # fmt: skip


def correlated(count: int, width: int, seed: int = 0) -> torch.Tensor:
    mixing = torch.randn(width, width, generator=generator(1)) * torch.logspace(0, -2, width)
    return torch.randn(count, width, generator=generator(seed)) @ mixing + 0.5


def directions(count: int, seed: int, kinds: int = 6, dim: int = 5) -> torch.Tensor:
    """Makes frames of unit length around a few directions."""
    centres = F.normalize(torch.randn(kinds, dim, generator=generator(1)), dim=-1)
    which = torch.randint(kinds, (count,), generator=generator(seed))
    return F.normalize(centres[which] + 0.1 * torch.randn(count, dim, generator=generator(seed + 1)), dim=-1)


def test_components_are_those_of_numpy_in_float64():
    frames = correlated(500, 12)
    components, variances = principal_components(frames)
    values, vectors = np.linalg.eigh(np.cov(frames.double().numpy().T, bias=True))
    np.testing.assert_allclose(variances.numpy(), values[::-1], rtol=1e-9)
    np.testing.assert_allclose(np.abs(components.numpy().T @ vectors[:, ::-1]), np.eye(12), atol=1e-6)
    assert (components.gather(0, components.abs().argmax(0, keepdim=True)) > 0).all()


def test_one_codebook_sees_the_first_components_and_several_see_rotations_of_more():
    frames = correlated(500, 40)
    components, _ = principal_components(frames)
    one = pca_projection(frames, 1, 4, generator(0))
    torch.testing.assert_close(one[0].double(), components[:, :4], atol=1e-6, rtol=0)
    several = pca_projection(frames, 3, 4, generator(0)).double()
    torch.testing.assert_close(several.transpose(1, 2) @ several, torch.eye(4).double().expand(3, 4, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(components[:, 16:].T @ several[0], torch.zeros(24, 4).double(), atol=1e-6, rtol=0)
    shared = [float((several[a].T @ several[b]).square().sum()) / 4 for a, b in ((0, 1), (0, 2), (1, 2))]
    assert max(shared) < 0.7  # two random spaces of 4 in 16 dimensions share a quarter


def test_assignment_is_a_search_through_all_codes():
    frames, codes = directions(300, 0), F.normalize(torch.randn(7, 5, generator=generator(3)), dim=-1)
    cosines, nearest = nearest_on_sphere(frames, codes)
    for frame, cosine, code in zip(frames.double(), cosines, nearest, strict=True):
        distances = [float((frame - other).norm()) for other in codes.double()]
        assert code == int(np.argmin(distances)) and float(cosine) == pytest.approx(1 - min(distances) ** 2 / 2, abs=1e-5)


def test_codes_are_the_means_of_their_frames_and_as_good_as_those_of_scikit_learn():
    frames, found = directions(3000, 0), []
    for start in range(5):
        codes = fit_on_sphere(frames, frames[6 * start : 6 * start + 6].clone(), generator(0))
        cosines, nearest = nearest_on_sphere(frames, codes)
        means = torch.stack([frames[nearest == code].double().mean(0) for code in range(6)])
        torch.testing.assert_close(codes.double(), F.normalize(means, dim=-1), atol=1e-3, rtol=0)
        found.append(float(cosines.mean()))
    reference = KMeans(6, n_init=5, init="random", random_state=0).fit(frames.numpy()).cluster_centers_
    best, _ = nearest_on_sphere(frames, F.normalize(torch.from_numpy(reference), dim=-1))
    assert max(found) > best.mean() - 1e-3


def test_codes_without_frames_begin_again():
    frames = directions(500, 0)
    start = frames[:1].repeat(6, 1)  # five of six get no frame
    codes = fit_on_sphere(frames, start, generator(0))
    assert nearest_on_sphere(frames, codes)[1].unique().numel() == 6


def test_matching_is_the_best_of_all_permutations():
    old, new = (F.normalize(torch.randn(5, 3, generator=generator(seed)), dim=-1) for seed in (0, 1))
    best = max(permutations(range(5)), key=lambda order: float((old * new[list(order)]).sum()))
    assert torch.equal(matched(new, old), new[list(best)])


def test_refined_codes_stand_where_the_old_ones_stood():
    quantizer = RandomProjectionQuantizer(draw_projection(20, 1, 4, generator(0)), draw_codebook(1, 8, 4, generator(1)))
    fitting = QuantizerFitting(quantizer, FitSchedule((0, 5), 1, 400), projection=False, codes=True, seed=0, name="anchor")
    fitted = []
    for step in range(7):
        fitting.begin_step(step)
        fitting.gather(correlated(400, 20, seed=step))
        fitted.append(quantizer.codebook.clone())
    assert all(torch.equal(fitted[0], fitted[step]) for step in range(1, 5)) and not torch.equal(fitted[4], fitted[5])
    assert torch.equal(fitted[5], fitted[6]) and fitting.num_fits == 2
    similarity = fitted[4][0] @ fitted[5][0].T
    assert similarity.diagonal().sum() >= similarity[:, torch.randperm(8, generator=generator(2))].diagonal().sum()
    assert similarity.diagonal().mean() > 0.9


def fit_once(frames: torch.Tensor) -> RandomProjectionQuantizer:
    quantizer = RandomProjectionQuantizer(draw_projection(20, 1, 4, generator(0)), draw_codebook(1, 8, 4, generator(1)))
    fitting = QuantizerFitting(quantizer, FitSchedule((0,), 1, 400), projection=True, codes=True, seed=0, name="anchor")
    fitting.begin_step(0)
    assert fitting.gather(frames)
    return quantizer


def test_a_fit_is_exact_under_autocast():
    frames = correlated(400, 20)
    plain = fit_once(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = fit_once(frames)
    assert torch.equal(plain.projection, mixed.projection) and torch.equal(plain.codebook, mixed.codebook)


def test_a_fit_takes_frames_evenly_from_a_large_batch():
    assert torch.equal(fit_once(correlated(1200, 20)).codebook, fit_once(correlated(1200, 20)[::3]).codebook)


def gather(model: BiRQModel, *seeds: int) -> BiRQModel:
    """Computes the losses of training steps without an optimizer."""
    for step in seeds:
        begin_step(step, model.anchor_labeler, model.enhanced_labeler)
        model.losses(make_batch((2.5, 2.0, 2.0, 1.5), seed=step), Weights(0.7, 1.3), generator(step), False, True)
    return model


def labels(model: BiRQModel) -> torch.Tensor:
    batch = make_batch(seed=9)
    return model.eval().extract_labels(batch.signal, batch.signal_length).anchor


@pytest.mark.parametrize("books", [1, 2])
def test_fitted_labels_depend_on_the_input_alone(books):
    changes = FITTED | {"birq__quantizer__num_books": books, "decoder__num_decoders": books}
    one, other = (gather(make_model(seed=seed, **changes).train(), 0, 1, 2) for seed in (0, 1))
    assert not torch.equal(one.encoder.pre_encode.out.weight, other.encoder.pre_encode.out.weight)
    assert one.anchor_labeler.fitting.num_fits == 1
    assert torch.equal(labels(one), labels(other)) and not torch.equal(labels(one), labels(make_model(**changes)))
    assert len(labels(one)[0].unique()) > 8


def test_a_fit_goes_on_from_a_file_and_both_kinds_of_files_hold_it(tmp_path):
    whole = gather(make_model(**FITTED).train(), 0, 1)
    half = gather(make_model(**FITTED).train(), 0)
    resumed = make_model(seed=1, **FITTED).train()
    artifacts.restore_labels(resumed, artifacts.labels_of(half))
    gather(resumed, 1)
    assert torch.equal(labels(resumed), labels(whole))
    assert whole.anchor_labeler.fitting.frames is None and "anchor_frames" not in artifacts.labels_of(whole)
    whole.save_to(str(tmp_path / "fitted.nemo"))
    opened = BiRQModel.restore_from(str(tmp_path / "fitted.nemo"), map_location="cpu")
    assert (
        torch.equal(labels(opened), labels(whole))
        and opened.cfg.birq.quantizer.checksum == whole.cfg.birq.quantizer.checksum
    )
    gather(opened.train(), 0, 1)  # a new training continues with the labels of the file
    assert torch.equal(labels(opened), labels(whole))
    with pytest.raises(ValueError, match="holds fitted_anchor_codebook, fitted_anchor_projection, but this model has no"):
        artifacts.restore_labels(make_model(), artifacts.labels_of(whole))


def test_a_training_fits_once(tmp_path):
    model = make_model(**FITTED)
    before = model.anchor_labeler.quantizer.codebook.clone()
    train(model, tmp_path, steps=1)
    assert torch.equal(before, model.anchor_labeler.quantizer.codebook)
    model = make_model(**FITTED)
    train(model, tmp_path, steps=4)
    fitting = model.anchor_labeler.fitting
    assert fitting.num_fits == 1 and not torch.equal(before, model.anchor_labeler.quantizer.codebook)
    # The checksum of the random tensors stays, which the enhanced labels have too.
    assert torch.equal(model.enhanced_labeler.quantizer.codebook, before)


def test_without_frames_the_quantizer_stays_random():
    quantizer = RandomProjectionQuantizer(draw_projection(20, 1, 4, generator(0)), draw_codebook(1, 8, 4, generator(1)))
    before = quantizer.projection.clone(), quantizer.codebook.clone()
    fitting = QuantizerFitting(quantizer, FitSchedule((0,), 1, 8), projection=True, codes=True, seed=0, name="anchor")
    fitting.begin_step(0)
    fitting.gather(torch.zeros(0, 20))
    assert torch.equal(before[0], quantizer.projection) and torch.equal(before[1], quantizer.codebook)


@pytest.mark.parametrize(
    ("anchor", "message"),
    [
        ({"codes": "kmeans", "fit_frames": 100}, r"anchor\.fit_frames=100 .*at least 8192"),
        ({"codes": "kmeans", "refine_steps": [30]}, r"anchor\.refine_steps=\[30\] .*fit_steps=50"),
        ({"codes": "kmeans", "refine_steps": [200, 100]}, r"anchor\.refine_steps"),
        (
            {"projection": "pca", "refine_steps": [100]},
            r"anchor\.refine_steps=\[100\] .*unless model\.birq\.anchor\.codes=kmeans",
        ),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(anchor, message):
    with pytest.raises(ValueError, match=message):
        parse({"anchor": anchor})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"codebook": "kmeans", "refine_steps": [130]}, r"labels\.refine_steps=\[130\] .*fit_steps=50 apart .* from 100"),
        ({"codebook": "tracked", "refine_steps": [200]}, r"labels\.refine_steps=\[200\] .*unless .*labels\.codebook=kmeans"),
        ({"codebook": "random", "code_dim": 8}, r"labels\.code_dim=8 .*null unless .*tracked or kmeans"),
    ],
)
def test_settings_of_fitted_enhanced_labels_that_do_not_fit_each_other_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        parse({"labels": labels, "loss": {"start_step": 100}})


def test_fitted_enhanced_labels_need_a_frame_for_each_code():
    with pytest.raises(ValueError, match=r"anchor\.fit_frames=100 .*at least 8192"):
        parse({"labels": {"codebook": "kmeans"}, "anchor": {"fit_frames": 100}})


def test_more_dimensions_than_components_are_refused():
    with pytest.raises(ValueError, match=r"code_dim=81 .*at most 80"):
        make_model(**FITTED, birq__quantizer__code_dim=81)


@pytest.mark.parametrize("codebook", ["random", "tracked"])
def test_the_projection_of_layer_k_is_fitted_where_its_weight_begins(codebook, tmp_path):
    changes = FITTED | {"birq__labels__projection": "pca", "birq__labels__codebook": codebook, "birq__loss__start_step": 1}
    model = gather(make_model(**changes).train(), 0, 1)
    labeler = model.enhanced_labeler
    drawn = model.fixed_tensors["enhanced_projection"]
    assert torch.equal(labeler.quantizer.projection, drawn) and labeler.fitting.frames is not None
    gather(model, 2)
    projection = labeler.quantizer.projection[0]
    torch.testing.assert_close(projection.T @ projection, torch.eye(8), atol=1e-5, rtol=0)
    assert labeler.fitting.num_fits == 1 and torch.equal(model.fixed_tensors["enhanced_projection"], drawn)
    if codebook == "tracked":
        assert labeler.tracking.tracked_batches == 1  # of the new space
    other = make_model(seed=1, **changes)
    artifacts.restore_labels(other, artifacts.labels_of(model))
    assert torch.equal(other.enhanced_labeler.quantizer.projection, labeler.quantizer.projection)
    assert torch.equal(other.enhanced_labeler.quantizer.codebook, labeler.quantizer.codebook)


ENHANCED = {
    "birq__labels__codebook": "kmeans", "birq__labels__code_dim": 4, "birq__anchor__fit_steps": 2,
    "birq__anchor__fit_frames": 400, "birq__labels__label_gradient": 0.0, "birq__loss__start_step": 1,
    "birq__labels__refine_steps": [4],
}  # fmt: skip


@pytest.mark.parametrize("projection", ["random", "pca"])
def test_the_codes_of_layer_k_are_means_of_its_frames_and_constant_between_refinements(projection, monkeypatch):
    model = make_model(**ENHANCED, birq__labels__projection=projection).train()
    labeler, gathered, codes = model.enhanced_labeler, [], []
    fitting, shared = labeler.fitting, model.fixed_tensors["codebook"].clone()
    drawn, fit = labeler.quantizer.codebook.clone(), fitting._fit
    monkeypatch.setattr(fitting, "_fit", lambda: gathered.append(fitting.frames.clone()) or fit())
    for step in range(7):
        gather(model, step)
        codes.append(labeler.quantizer.codebook.clone())
    assert torch.equal(codes[0], drawn) and torch.equal(codes[1], drawn)  # steps 1 and 2 are gathered
    assert torch.equal(codes[2], codes[4]) and torch.equal(codes[5], codes[6]) and len(gathered) == 2  # steps 4 and 5
    for frames, found in zip(gathered, (codes[2][0], codes[5][0]), strict=True):
        units = labeler.quantizer.unit_vectors(frames[frames.square().sum(dim=1) > 0])[:, 0].double()
        nearest = (units @ found.double().T).argmax(dim=1)
        means = F.normalize(torch.stack([units[nearest == code].mean(0) for code in range(24)]), dim=-1)
        torch.testing.assert_close(found.double(), means, atol=1e-4, rtol=0)
    similarity = codes[2][0] @ codes[5][0].T
    assert similarity.diagonal().sum() > similarity[:, torch.randperm(24, generator=generator(2))].diagonal().sum()
    assert torch.equal(model.anchor_labeler.quantizer.codebook, shared)  # the anchor labels keep theirs


def test_fitted_codes_of_layer_k_are_in_both_kinds_of_files(tmp_path):
    whole, half = gather(make_model(**ENHANCED).train(), 0, 1, 2), gather(make_model(**ENHANCED).train(), 0, 1)
    resumed = make_model(**ENHANCED).train()
    artifacts.restore_labels(resumed, artifacts.labels_of(half))
    gather(resumed, 2)
    assert torch.equal(resumed.enhanced_labeler.quantizer.codebook, whole.enhanced_labeler.quantizer.codebook)
    whole.save_to(str(tmp_path / "fitted.nemo"))
    opened = BiRQModel.restore_from(str(tmp_path / "fitted.nemo"), map_location="cpu")
    batch = make_batch(seed=9)
    found = [model.eval().extract_labels(batch.signal, batch.signal_length) for model in (whole, opened)]
    assert torch.equal(found[0].enhanced, found[1].enhanced) and torch.equal(found[0].anchor, found[1].anchor)
    with pytest.raises(ValueError, match=r"holds fitted_enhanced_codebook, but this model has no .*labels\.codebook"):
        artifacts.restore_labels(make_model(), artifacts.labels_of(whole))
