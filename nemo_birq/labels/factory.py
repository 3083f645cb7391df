"""Construction of the labelers of a configuration."""

from nemo.collections.asr.modules import ConformerEncoder
from torch import Tensor

from nemo_birq.config import BiRQConfig, LabelsConfig
from nemo_birq.labels.anchor import AnchorLabeler, RandomProjectionLabeler
from nemo_birq.labels.enhanced import EnhancedLabeler
from nemo_birq.labels.fitting import FitSchedule, QuantizerFitting
from nemo_birq.labels.logit_scale import ScaleChoice
from nemo_birq.labels.normalization import LayerNormalization
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.labels.teacher import TeacherLabeler
from nemo_birq.labels.tracked_codebook import CodebookTracking
from nemo_birq.modules.frame_times import leading_frames


def build_labelers(
    birq: BiRQConfig, tensors: dict[str, Tensor], teacher: TeacherLabeler | None, encoder: ConformerEncoder
) -> tuple[AnchorLabeler, EnhancedLabeler]:
    """Builds the labelers of both tasks.

    Args:
        birq: the configuration.
        tensors: result of ``tensors.draw``, or the tensors of a file.
        teacher: labeler that replaces the anchor labels; None without offline relabelling.
        encoder: encoder whose frames are labelled.
    """
    anchor = teacher
    if anchor is None:
        anchor = _build_anchor(birq, tensors, encoder)
    return anchor, _build_enhanced(birq, tensors)


def _build_anchor(birq: BiRQConfig, tensors: dict[str, Tensor], encoder: ConformerEncoder) -> RandomProjectionLabeler:
    projection = tensors.get("fitted_anchor_projection", tensors["anchor_projection"])
    quantizer = RandomProjectionQuantizer(projection, tensors.get("fitted_anchor_codebook", tensors["codebook"]))
    fitting, anchor = None, birq.anchor
    if anchor.fitted:
        starts = (0, *anchor.refine_steps)
        fitting = _fitting(birq, quantizer, starts, anchor.projection == "pca", anchor.codes == "kmeans", "anchor")
    return RandomProjectionLabeler(
        quantizer, encoder.subsampling_factor, leading_frames(encoder), anchor.normalization is not None, fitting
    )


def _fitting(
    birq: BiRQConfig, quantizer: RandomProjectionQuantizer, starts: tuple[int, ...], projection: bool, codes: bool, name: str
) -> QuantizerFitting:
    schedule = FitSchedule(starts, birq.anchor.fit_steps, birq.anchor.fit_frames)
    return QuantizerFitting(quantizer, schedule, projection, codes, birq.quantizer.seed, name)


def _build_enhanced(birq: BiRQConfig, tensors: dict[str, Tensor]) -> EnhancedLabeler:
    labels = birq.labels
    projection = tensors.get("fitted_enhanced_projection", tensors["enhanced_projection"])
    codebook, tracking = tensors["codebook"], None
    if labels.codebook == "tracked":
        codebook = tensors["enhanced_codebook"]
        tracking = CodebookTracking(*codebook.shape, labels.codebook_momentum)
    elif labels.codebook == "kmeans":
        codebook = tensors["fitted_enhanced_codebook"]
    quantizer, fitting = RandomProjectionQuantizer(projection, codebook), None
    if labels.fitted:
        starts = (birq.loss.start_step, *labels.refine_steps)
        fitting = _fitting(birq, quantizer, starts, labels.projection == "pca", labels.codebook == "kmeans", "enhanced")
    chosen = labels.logit_scale == "auto"
    return EnhancedLabeler(
        quantizer,
        LayerNormalization(projection.shape[1], labels.normalization, labels.momentum),
        logit_scale=LabelsConfig.logit_scale if chosen else labels.logit_scale,
        temperature=labels.temperature,
        hard=labels.hard,
        label_gradient=labels.label_gradient,
        tracking=tracking,
        fitting=fitting,
        choice=ScaleChoice(labels.nearest_share, birq.anchor.fit_steps) if chosen else None,
    )


def begin_step(step: int, *labelers: AnchorLabeler | EnhancedLabeler) -> None:
    """Prepares the fits of both labelers for the first batch of an optimizer step."""
    for labeler in labelers:
        if labeler.fitting is not None:
            labeler.fitting.begin_step(step)
