"""Recipe of the task retrieve; no Keras."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from kerascv_course.config import TrainedRecipe
from kerascv_course.core.errors import InputError
from kerascv_course.core.schema import Fraction, NonNegative, NonNegativeInt, Positive, Range, check_fields

__all__ = ["RECIPE", "Retrieval", "RetrievalRecipe"]


@dataclass(frozen=True)
class Retrieval:
    """Image retrieval: embedding, losses, batches and evaluation protocol."""

    embedding: NonNegativeInt = 0
    """Embedding size: adds a dense layer after pooling; 0 uses the pooled features."""
    neck: bool = False
    """Use batch normalization between the features of the triplet loss and those of classification (BNNeck, Luo et al. 2019)."""
    dropout: Fraction = 0.5
    """Dropout before the identity classifier."""
    label_smoothing: Fraction = 0.0
    """Label smoothing of the identity loss, 0 to below 1."""
    identity_loss: Literal["none", "softmax", "arcface", "cosface"] = "softmax"
    """Classification loss over the training identities."""
    angular_margin: Annotated[float, Range(0, math.pi / 2)] = 0.5
    """Margin of arcface (radians) or cosface (cosine; 0.35 in its paper)."""
    angular_scale: Positive = 30.0
    """Scale of the cosines in arcface and cosface."""
    triplet: Literal["none", "random", "semi-hard", "batch-hard", "batch-all"] = "none"
    """Triplet loss, by its mining strategy."""
    triplet_weight: NonNegative = 1.0
    """Weight of the triplet loss; the identity loss has weight 1."""
    margin: Positive = 0.3
    """Margin of the triplet loss."""
    soft_margin: bool = False
    """Use the softplus triplet loss, which has no margin (Hermans et al. 2017)."""
    distance: Literal["euclidean", "cosine"] = "euclidean"
    """Distance of the triplet loss. Search always uses unit-length embeddings."""
    center_weight: NonNegative = 0.0
    """Weight of the center loss (Wen et al. 2016); 0 disables it."""
    images_per_identity: NonNegativeInt = 0
    """K of PK batches, which hold batch_size / K identities with K images each; 0 draws images at random."""
    protocol: Literal["one-an-identity", "leave-one-out", "query-gallery"] = "one-an-identity"
    """Gallery: the first image of each identity, all other images, or as the dataset marks queries and gallery."""
    rerank: bool = False
    """Also evaluate k-reciprocal re-ranking (Zhong et al. 2017)."""
    tta: Literal["none", "flip", "flip-translate"] = "none"
    """Test-time augmentation: average embeddings over the image, its mirror image and, with translate, both shifted by a pixel."""

    def __post_init__(self) -> None:
        check_fields(self, "retrieval")
        if self.identity_loss == "none" and self.triplet == "none":
            raise InputError("retrieval requires an identity loss, a triplet loss or both; received none for both")
        if self.triplet != "none" and self.images_per_identity < 2:
            raise InputError(
                "the triplet loss requires two or more images of each identity in a batch; received "
                f"retrieval.images_per_identity {self.images_per_identity}: use --retrieval.images-per-identity 4"
            )


@dataclass(frozen=True, kw_only=True)
class RetrievalRecipe(TrainedRecipe):
    """A recipe of the task retrieve."""

    monitors: ClassVar[tuple[str, ...]] = ("val_loss", "val_R1", "last")

    task: str = field(default="retrieve", init=False)
    retrieval: Retrieval = field(default_factory=Retrieval)
    """Retrieval."""

    def __post_init__(self) -> None:
        super().__post_init__()
        each = self.retrieval.images_per_identity
        if each and (self.batch_size % each or self.batch_size < 2 * each):
            raise InputError(
                f"a batch must hold retrieval.images_per_identity images of each of two or more identities; received {each} for "
                f"batches of {self.batch_size}: use a multiple, such as --batch-size {max(2, self.batch_size // each) * each}"
            )


RECIPE = RetrievalRecipe
