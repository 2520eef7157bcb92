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
from kerascv_course.core.errors import InputError
from kerascv_course.core.retrieval_metrics import RetrievalProtocol, evaluate, evaluate_distances, make_protocol
from kerascv_course.data import DataInfo, Dataset, Split
from kerascv_course.models import create_model
from kerascv_course.tasks.base import Trained, TrainedTask
from kerascv_course.tasks.classification.transfer import freeze_before, load_all_but_head
from kerascv_course.tasks.classification.tta import mean_over_views
from kerascv_course.tasks.retrieval import figures as retrieval_figures
from kerascv_course.tasks.retrieval.config import RetrievalRecipe
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

__all__ = ["RetrievalTask"]

#: k of R@k.
KS = (1, 5, 10)

SAME_IMAGES = (
    "these are the validation images, for the data has no test split: the figures are of identities that were never learnt"
)


class RetrievalTask(TrainedTask[RetrievalRecipe]):
    """The task retrieve."""

    curve = "R1"
    more_curves: tuple[str, ...] = ("R5", "R10")
    answer = "embedding"
    evaluation_batch = 128
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

    def __init__(self, recipe: RetrievalRecipe) -> None:
        super().__init__(recipe)
        self._embedder: tuple[keras.Model, keras.Model] | None = None

    def label(self, data: Dataset, run_dir: Path | None) -> Dataset:
        """The source's own identities; each split must allow the recipe's protocol, and batches the recipe's identities.

        Raises:
            InputError: they do not.
        """
        for _, split in data.items():
            self.protocol(split)
        self.order(data)
        return data

    def protocol(self, split: Split) -> RetrievalProtocol:
        """The recipe's protocol for the images of a split; leave-one-out where query-gallery finds no marks in the split."""
        name = self.recipe.retrieval.protocol
        if name == "query-gallery" and split.queries is None:
            name = "leave-one-out"
        return make_protocol(name, split.targets, cameras=split.cameras, is_query=split.queries)

    def order(self, data: Dataset) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """PK batches, if the recipe has them."""
        each = self.recipe.retrieval.images_per_identity
        if not each:
            return None
        return pk_order(data.train.targets, self.recipe.batch_size // each, each, self.recipe.seed)

    def build(self, data: Dataset) -> keras.Model:
        """uint8 images to one row of all that the losses take: vector, logits, distances to centres, side by side.

        A network of the registry without its top, behind normalisation; then ``feature``, which triplets and centres compare, and
        ``embedding``, which identities are classified and found by: the same, or behind batch norm (BNNeck).
        """
        recipe, shape = self.recipe, data.info.image_shape
        config, identities = recipe.retrieval, _learnt(data)
        options: dict[str, Any] = dict(recipe.model_options)
        backbone = create_model(recipe.model, None, shape, include_top=False, **options)
        if recipe.weights:
            load_all_but_head(backbone, recipe.weights, recipe.model, has_head=False)
        if recipe.train_from:
            freeze_before(backbone, recipe.train_from)
        image = keras.Input(shape, dtype="uint8", name="image")
        x = backbone(normalization(recipe.data.normalize_mean, recipe.data.normalize_std, shape[-1])(image))
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

    def compile_arguments(self, data: Dataset) -> dict[str, Any]:
        """The weighted sum of the recipe's losses; each by itself as a metric, where there are several."""
        config, identities = self.recipe.retrieval, _learnt(data)
        if config.triplet != "none" and replicas() > 1:
            raise InputError(
                f"retrieval.triplet {config.triplet} compares all images of a batch, of which TensorFlow shows each device a part: "
                "train it with KERAS_BACKEND=jax, or without --devices"
            )
        losses: list[tuple[str, keras.losses.Loss, float, int]] = []
        if config.identity_loss == "softmax":
            losses.append(("id", IdentityCrossentropy(config.label_smoothing), 1.0, identities))
        elif config.identity_loss != "none":
            margin = (config.angular_margin, config.angular_scale, config.label_smoothing)
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

    def embedder(self, model: keras.Model) -> keras.Model:
        """uint8 images to vectors of length 1, of a model that `build` made; averaged over the views of test-time augmentation."""
        if self._embedder is None or self._embedder[0] is not model:
            vectors = keras.Model(model.input, model.get_layer("embedding").output, name=model.name)
            vectors = mean_over_views(vectors, self.recipe.retrieval.tta)
            image = keras.Input(model.input.shape[1:], dtype="uint8", name="image")
            unit = keras.layers.UnitNormalization(name="unit_length")(vectors(image))
            self._embedder = (model, keras.Model(image, unit, name=model.name))
        return self._embedder[1]

    def predict(self, model: keras.Model, split: Split) -> np.ndarray:
        """Embeddings (N, size) of length 1."""
        embeddings: np.ndarray = super().predict(self.embedder(model), split)
        return embeddings

    def outputs(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """The embeddings."""
        return {"embedding": predictions}

    def validate(self, model: keras.Model, data: Dataset) -> dict[str, float]:
        """R1, R5 and R10 of the validation split; nothing if the network has diverged, which its loss tells."""
        vectors = self.predict(model, data.validation)
        if not np.isfinite(vectors).all():
            return {}
        report = evaluate(vectors, data.validation.targets, self.protocol(data.validation), ks=KS)
        return {f"R{k}": value for k, value in report.recalls.items()}

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """`RetrievalReport` of each split, by the recipe's protocol; of the test split also re-ranked if the recipe asks for it.

        Baselines: a random order, and the images themselves, shrunk to 16×16 pixels.
        """
        data = trained.data
        metrics: dict[str, Any] = {}
        for name, split in data.items():
            protocol = self.protocol(split)
            vectors = trained.predictions if split is data.test else self.predict(trained.model, split)
            metrics[name] = {"images": len(split), **evaluate(vectors, split.targets, protocol, ks=KS).to_plain()}
            if name == "test" and self.recipe.retrieval.rerank:
                distances = k_reciprocal(vectors[protocol.queries], vectors[protocol.gallery])
                report = evaluate_distances(distances, split.targets, protocol, ks=KS)
                metrics[name] |= {f"reranked {key}": report.to_plain()[key] for key in ("R1", "mAP")}
        if data.test is data.validation:
            metrics["test"]["note"] = SAME_IMAGES
        pixels = evaluate(pixel_vectors(data.test.images), data.test.targets, self.protocol(data.test), ks=KS)
        metrics["floors"] = {"R1 of a random order": pixels.chance}
        metrics["floors"] |= {f"R{k} of {PIXELS}×{PIXELS} pixels": value for k, value in pixels.recalls.items()}
        return metrics

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """R1, R5, R10 and mAP of the test split, and what a random order has."""
        test = metrics["test"]
        shown = {f"test {key}": f"{test[key]:.4f}" for key in ("R1", "R5", "R10", "mAP")}
        return {**shown, "R1 by chance": f"{test['chance']:.4f}"}

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """Rank lists, CMC curve, histograms of distances, a map, the worst confusions and, if they are trained on, triplets."""
        data, vectors, model = trained.data, trained.predictions, trained.model
        labels = data.info.labels
        figures = retrieval_figures.draw(vectors, data.test, labels, self.protocol(data.test), trained.metrics)
        config, order = self.recipe.retrieval, self.order(data)
        if order is not None and config.triplet != "none":
            batch = data.train.take(order(tf.constant(0, tf.int64)).numpy())
            compared = keras.Model(model.input, model.get_layer("feature").output)
            features = compared.predict_on_batch(batch.images)
            figures["triplets"] = retrieval_figures.triplets(features, batch, labels, config.triplet, config.distance)
        return figures

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """The first test image of each of the first identities."""
        samples, test = {}, data.test
        for target in np.unique(test.targets[test.targets >= 0])[:count].tolist():
            safe = re.sub(r"[^\w-]+", "_", data.info.labels[target]) or "identity"
            samples[f"{target}_{safe}"] = test.images[(test.targets == target).argmax()]
        return samples

    def serving_graph(self, model: keras.Model, info: DataInfo) -> keras.Model:
        """uint8 images to ``embedding``, vectors of length 1."""
        image = keras.Input(info.image_shape, dtype="uint8", name="image")
        embedding = keras.layers.Identity(name="embedding")(self.embedder(model)(image))
        return keras.Model(image, {"embedding": embedding}, name=model.name)

    def labels(self, info: DataInfo) -> tuple[str, ...]:
        """None: a file of embeddings has no labels."""
        return ()

    def describe(self, trained: Trained) -> dict[str, Any]:
        """A file of embeddings; R@k and mAP of each split."""
        keys, metrics = ("R1", "R5", "R10", "mAP"), trained.metrics
        measured = {split: {key: metrics[split][key] for key in keys} for split in ("train", "validation", "test")}
        return {"task": "embed", "labels": self.labels(trained.data.info), "metrics": measured}


TASK = RetrievalTask


def _learnt(data: Dataset) -> int:
    return int(data.train.targets.max()) + 1
