"""Builds the labelers of a configuration."""

from torch import Tensor

from nemo_birq.config import BiRQConfig
from nemo_birq.labels.anchor import AnchorLabeler, RandomProjectionLabeler
from nemo_birq.labels.enhanced import EnhancedLabeler
from nemo_birq.labels.normalization import LayerNormalization
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.labels.teacher import TeacherLabeler
from nemo_birq.labels.tracked_codebook import CodebookTracking


def build_labelers(
    birq: BiRQConfig, tensors: dict[str, Tensor], teacher: TeacherLabeler | None, subsampling: int
) -> tuple[AnchorLabeler, EnhancedLabeler]:
    """Builds the labelers of both tasks.

    Args:
        birq: the configuration.
        tensors: of ``tensors.draw``, or those of a file.
        teacher: makes the anchor labels where there is one.
        subsampling: S.
    """
    anchor = teacher
    if anchor is None:
        quantizer = RandomProjectionQuantizer(tensors["anchor_projection"], tensors["codebook"])
        anchor = RandomProjectionLabeler(quantizer, subsampling)
    return anchor, _build_enhanced(birq, tensors)


def _build_enhanced(birq: BiRQConfig, tensors: dict[str, Tensor]) -> EnhancedLabeler:
    labels, projection = birq.labels, tensors["enhanced_projection"]
    codebook, tracking = tensors["codebook"], None
    if labels.codebook == "tracked":
        codebook = tensors["enhanced_codebook"]
        tracking = CodebookTracking(*codebook.shape, labels.codebook_momentum)
    return EnhancedLabeler(
        RandomProjectionQuantizer(projection, codebook),
        LayerNormalization(projection.shape[1], labels.normalization, labels.momentum),
        logit_scale=labels.logit_scale,
        temperature=labels.temperature,
        hard=labels.hard,
        label_gradient=labels.label_gradient,
        tracking=tracking,
    )
