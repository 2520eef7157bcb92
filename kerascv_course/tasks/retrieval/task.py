"""Retrieval: a network learns to tell identities apart, and is measured by how well it finds others that it has never seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from export.serving import normalization
from kerascv_course.config import Recipe
from kerascv_course.core.errors import InputError
from kerascv_course.core.retrieval_metrics import RetrievalProtocol, evaluate, evaluate_distances, make_protocol
from kerascv_course.data import DataInfo, Split, Splits
from kerascv_course.data.pipeline import evaluation_batches
from kerascv_course.models import create_model
from kerascv_course.tasks.classification.transfer import freeze_before, load_all_but_head
from kerascv_course.tasks.classification.tta import mean_over_views
from kerascv_course.tasks.retrieval import figures as retrieval_figures
from kerascv_course.tasks.retrieval.losses import (
    AngularMarginLoss,
    CenterDistances,
    CenterLoss,
    CosineLogits,
    IdentityCrossentropy,
    PartLoss,
    TripletLoss,
    WeightedParts,
)
from kerascv_course.tasks.retrieval.metrics import PIXELS, k_reciprocal, pixel_vectors
from kerascv_course.tasks.retrieval.sampling import pk_order
from kerascv_course.training.devices import replicas

__all__ = ["Retrieval"]

BATCH = 128

#: k of R@k.
KS = (1, 5, 10)

SAME_IMAGES = (
    "these are the validation images, for the data has no test split: the figures are of identities that were never learnt"
)


class Retrieval:
    """The retrieval task (see `kerascv_course.tasks.base.Task`)."""

    curve = "R1"
    more_curves: tuple[str, ...] = ("R5", "R10")
    answer = "embedding"
    targets = "identities"
    captions: Mapping[str, str] = {
        "learning_curves": "Learning curves. Validation shows identities that are not learnt: R@k is the share of queries with a right "
        "picture among the k nearest. The validation loss is of the training's own head, which has no place for them: a "
        "cross-entropy there says nothing (report 000 finds no trend in it), a triplet loss does.",
        "rank_lists": "Queries of the test split, and what is nearest to each; framed green where it is the right identity, red where "
        "not. First queries whose nearest is wrong, then right ones.",
        "cmc": "Share of test queries with a right picture among the k nearest (cumulative matching characteristic).",
        "distances": "Distances of pairs of test pictures, between vectors of length 1.",
        "embedding_map": "Vectors of the test pictures in two dimensions (t-SNE; PCA for fewer than 50); a colour an identity, "
        "twenty of them.",
        "worst_confusions": "Test queries beside the wrong picture that is nearest, the nearest such pairs first.",
        "triplets": "Triplets of the first batch: anchor, positive, negative, as the loss takes them, with the distances that the "
        "finished network gives.",
    }

    def __init__(self) -> None:
        self._embedder: tuple[keras.Model, keras.Model] | None = None
        self._known: list[tuple[keras.Model, Split, np.ndarray]] = []

    def label(self, recipe: Recipe, splits: Splits, info: DataInfo, run_dir: Path | None) -> tuple[Splits, DataInfo]:
        """The source's own identities; each split must allow the recipe's protocol, and batches the recipe's identities.

        Raises:
            InputError: they do not.
        """
        for _, split in splits.items():
            protocol_of(recipe, split)
        self.order(recipe, splits)
        return splits, info

    def files(self, info: DataInfo) -> dict[str, str]:
        """None: nothing is chosen."""
        return {}

    def relabel(self, info: DataInfo) -> None:
        """None: an identity stays who it is when its image changes."""

    def order(self, recipe: Recipe, splits: Splits) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """PK batches, where the recipe asks for them."""
        each = recipe.retrieve.images_per_identity
        if not each:
            return None
        return pk_order(splits.train.targets, recipe.batch_size // each, each, recipe.seed)

    def build(self, recipe: Recipe, splits: Splits, info: DataInfo) -> keras.Model:
        """uint8 images to one row of all that the losses take: vector, logits, distances to centres, side by side.

        A network of the registry without its top, behind normalisation; then ``feature``, which triplets and centres compare, and
        ``embedding``, which identities are classified and found by: the same, or behind batch norm (BNNeck).
        """
        config, identities = recipe.retrieve, _learnt(splits)
        options: dict[str, Any] = dict(recipe.model_options)
        backbone = create_model(recipe.model, None, info.image_shape, include_top=False, **options)
        if recipe.weights:
            load_all_but_head(backbone, recipe.weights, recipe.model, has_head=False)
        if recipe.train_from:
            freeze_before(backbone, recipe.train_from)
        image = keras.Input(info.image_shape, dtype="uint8", name="image")
        x = backbone(normalization(recipe.data.normalize_mean, recipe.data.normalize_std, info.image_shape[-1])(image))
        if config.embedding:
            x = keras.layers.Dense(config.embedding, name="projection")(x)
        feature = keras.layers.Activation("linear", name="feature")(x)
        x = feature
        if config.neck:  # without β: classes are compared by directions from the origin (Luo et al. 2019, section 3.5)
            x = keras.layers.BatchNormalization(center=False, momentum=0.9, epsilon=1e-5, name="neck")(x)
        embedding = keras.layers.Activation("linear", name="embedding")(x)
        parts = [feature]
        if config.identity_loss != "none":
            dropped = keras.layers.Dropout(config.dropout, name="dropout")(embedding) if config.dropout else embedding
            if config.identity_loss == "softmax":
                parts.append(keras.layers.Dense(identities, use_bias=not config.neck, name="logits")(dropped))
            else:
                parts.append(CosineLogits(identities, name="cosines")(dropped))
        if config.center_weight:
            parts.append(CenterDistances(identities, name="center_distances")(feature))
        if len(parts) == 1:
            return keras.Model(image, embedding, name=recipe.model.split("/")[-1].split("?")[0])
        return keras.Model(image, keras.layers.Concatenate(name="parts")(parts), name=recipe.model.split("/")[-1].split("?")[0])

    def compile_arguments(self, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """The weighted sum of the recipe's losses; each by itself as a metric, where there are several."""
        config, identities = recipe.retrieve, _learnt(splits)
        if config.triplet != "none" and replicas() > 1:
            raise InputError(
                f"retrieve.triplet {config.triplet} compares all images of a batch, of which TensorFlow shows each device a part: "
                "train it with KERAS_BACKEND=jax, or without --devices"
            )
        losses: list[tuple[str, keras.losses.Loss, float, int]] = []
        if config.identity_loss == "softmax":
            losses.append(("id", IdentityCrossentropy(recipe.label_smoothing), 1.0, identities))
        elif config.identity_loss != "none":
            margin = (config.angular_margin, config.angular_scale, recipe.label_smoothing)
            losses.append(("id", AngularMarginLoss(config.identity_loss, *margin), 1.0, identities))
        if config.center_weight:
            losses.append(("center", CenterLoss(), config.center_weight, identities))
        # columns from the right, since the width of the vector is the network's own
        width = sum(size for *_, size in losses)
        parts: dict[str, tuple[keras.losses.Loss, float, int | None, int | None]] = {}
        begin = -width
        for name, loss, weight, size in losses:
            parts[name] = (loss, weight, begin, begin + size or None)
            begin += size
        if config.triplet != "none":
            triplets = TripletLoss(config.triplet, config.margin, config.soft_margin, config.distance)
            parts["triplet"] = (triplets, config.triplet_weight, None, -width or None)
        loss = WeightedParts(parts)
        if len(parts) == 1:
            return {"loss": loss}
        return {"loss": loss, "metrics": [PartLoss(loss, name) for name in parts]}

    def embedder(self, model: keras.Model, recipe: Recipe) -> keras.Model:
        """uint8 images to vectors of length 1, of a model that `build` made; the mean over the recipe's views."""
        if self._embedder is None or self._embedder[0] is not model:
            vectors = keras.Model(model.input, model.get_layer("embedding").output, name=model.name)
            vectors = mean_over_views(vectors, recipe.views)
            image = keras.Input(model.input.shape[1:], dtype="uint8", name="image")
            unit = keras.layers.UnitNormalization(name="unit_length")(vectors(image))
            self._embedder = (model, keras.Model(image, unit, name=model.name))
        return self._embedder[1]

    def _embed(self, model: keras.Model, recipe: Recipe, split: Split) -> np.ndarray:
        return self.embedder(model, recipe).predict(evaluation_batches(split, BATCH), verbose=0)

    def _vectors(self, model: keras.Model, recipe: Recipe, split: Split) -> np.ndarray:
        """Vectors of a split by a finished model, each split's once."""
        for known, images, vectors in self._known:
            if known is model and images is split:
                return vectors
        self._known.append((model, split, self._embed(model, recipe, split)))
        return self._known[-1][2]

    def validate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, float]:
        """R1, R5 and R10 of the validation split; nothing where the network has diverged, which its loss tells."""
        vectors = self._embed(model, recipe, splits.validation)
        if not np.isfinite(vectors).all():
            return {}
        report = evaluate(vectors, splits.validation.targets, protocol_of(recipe, splits.validation), ks=KS)
        return {f"R{k}": value for k, value in report.recalls.items()}

    def snapshot(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> None:
        """Nothing is drawn."""

    def evaluate(self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo) -> dict[str, Any]:
        """`RetrievalReport` of each split, by the recipe's protocol; of the test split re-ranking too where the recipe asks for it.

        Floors: a random order, and the pictures themselves, shrunken to 16×16 pixels.
        """
        metrics: dict[str, Any] = {}
        for name, split in splits.items():
            protocol = protocol_of(recipe, split)
            vectors = self._vectors(model, recipe, split)
            metrics[name] = {"images": len(split), **evaluate(vectors, split.targets, protocol, ks=KS).to_plain()}
            if name == "test" and recipe.retrieve.rerank:
                distances = k_reciprocal(vectors[protocol.queries], vectors[protocol.gallery])
                report = evaluate_distances(distances, split.targets, protocol, ks=KS)
                metrics[name] |= {f"reranked {key}": report.to_plain()[key] for key in ("R1", "mAP")}
        if splits.test is splits.validation:
            metrics["test"]["note"] = SAME_IMAGES
        pixels = evaluate(pixel_vectors(splits.test.images), splits.test.targets, protocol_of(recipe, splits.test), ks=KS)
        metrics["floors"] = {"R1 of a random order": pixels.chance}
        metrics["floors"] |= {f"R{k} of {PIXELS}×{PIXELS} pixels": value for k, value in pixels.recalls.items()}
        return metrics

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """R1, R5, R10 and mAP of the test split, and what a random order has."""
        test = metrics["test"]
        shown = {f"test {key}": f"{test[key]:.4f}" for key in ("R1", "R5", "R10", "mAP")}
        return {**shown, "R1 by chance": f"{test['chance']:.4f}"}

    def figures(
        self, model: keras.Model, recipe: Recipe, splits: Splits, info: DataInfo, metrics: Mapping[str, Any]
    ) -> dict[str, Figure]:
        """Rank lists, CMC curve, histograms of distances, a map, the worst confusions and, where they are learnt from, triplets."""
        test = splits.test
        vectors, protocol = self._vectors(model, recipe, test), protocol_of(recipe, test)
        figures = retrieval_figures.draw(vectors, test, info.labels, protocol, metrics)
        config, order = recipe.retrieve, self.order(recipe, splits)
        if order is not None and config.triplet != "none":
            batch = splits.train.take(order(tf.constant(0, tf.int64)).numpy())
            compared = keras.Model(model.input, model.get_layer("feature").output)
            features = compared.predict_on_batch(batch.images)
            figures["triplets"] = retrieval_figures.triplets(features, batch, info.labels, config.triplet, config.distance)
        return figures

    def samples(self, splits: Splits, info: DataInfo, count: int) -> dict[str, np.ndarray]:
        """The first test picture of each of the first identities."""
        samples = {}
        for target in np.unique(splits.test.targets[splits.test.targets >= 0])[:count].tolist():
            safe = re.sub(r"[^\w-]+", "_", info.labels[target]) or "identity"
            samples[f"{target}_{safe}"] = splits.test.images[(splits.test.targets == target).argmax()]
        return samples

    def serving_graph(self, model: keras.Model, recipe: Recipe, info: DataInfo) -> keras.Model:
        """uint8 images to ``embedding``, vectors of length 1."""
        embedder = self.embedder(model, recipe)
        image = keras.Input(info.image_shape, dtype="uint8", name="image")
        return keras.Model(image, {"embedding": keras.layers.Identity(name="embedding")(embedder(image))}, name=model.name)

    def describe(self, model: keras.Model, recipe: Recipe, info: DataInfo, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """A file of vectors, which has no labels; R@k and mAP."""
        measured = {
            split: {key: metrics[split][key] for key in ("R1", "R5", "R10", "mAP")} for split in ("train", "validation", "test")
        }
        return {"task": "embed", "labels": (), "metrics": measured}


def protocol_of(recipe: Recipe, split: Split) -> RetrievalProtocol:
    """The recipe's protocol over the images of a split; leave-one-out where query-gallery wants marks that the split has not."""
    name = recipe.retrieve.protocol
    if name == "query-gallery" and split.queries is None:
        name = "leave-one-out"
    return make_protocol(name, split.targets, cameras=split.cameras, is_query=split.queries)


def _learnt(splits: Splits) -> int:
    return int(splits.train.targets.max()) + 1
