"""Retrieval: a network learns to tell identities apart and is evaluated by how well it finds new ones."""

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
from kerascv_course.core.progress import Wait
from kerascv_course.core.retrieval_metrics import RetrievalProtocol, evaluate, evaluate_distances, make_protocol
from kerascv_course.data import DataInfo, Dataset, Split
from kerascv_course.models import create_model
from kerascv_course.tasks.base import Trained, TrainedTask
from kerascv_course.tasks.classification.transfer import freeze_before, load_all_but_head, warn_of_normalization
from kerascv_course.tasks.classification.tta import mean_over_views
from kerascv_course.tasks.retrieval.config import RetrievalRecipe
from kerascv_course.tasks.retrieval.figures import retrieval_figures, triplet_figure
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

SAME_IMAGES = "the data has no test split, so these are the validation images; their identities were not used for training"


class RetrievalTask(TrainedTask[RetrievalRecipe]):
    """Retrieval of identities; the predictions are vectors of length 1."""

    curve = "R1"
    more_curves: tuple[str, ...] = ("R5", "R10")
    answer = "embedding"
    evaluation_batch = 128
    targets = "identities"
    closed_set = False
    captions: Mapping[str, str] = {
        "learning_curves": "Learning curves. R@k is the fraction of queries of new identities with a match among the k nearest images. "
        "The validation loss uses the classifier of the training identities: a cross-entropy is meaningless there (report 000 finds no "
        "trend in it), a triplet loss is not.",
        "rank_lists": "Test queries and their nearest gallery images, framed green for the same identity and red otherwise; queries "
        "with a wrong nearest image first.",
        "cmc": "Cumulative matching characteristic: fraction of queries with a match among the k nearest images.",
        "distances": "Distances between pairs of test images (vectors of length 1).",
        "embedding_map": "Test images in two dimensions (t-SNE; PCA for fewer than 50); one color per identity, for twenty of them.",
        "worst_confusions": "Test queries and their nearest image of another identity, closest pairs first.",
        "triplets": "Triplets of the first batch (anchor, positive, negative) as the loss selects them, with the distances of the "
        "trained network.",
    }

    def __init__(self, recipe: RetrievalRecipe) -> None:
        super().__init__(recipe)
        self._embedder: tuple[keras.Model, keras.Model] | None = None

    def label(self, data: Dataset, run_dir: Path | None) -> Dataset:
        """Check that the splits suit the protocol and the batches of the recipe; targets stay as they are.

        Raises:
            InputError: they do not.
        """
        for _, split in data.items():
            self.protocol(split)
        if len(data.train):
            self.order(data)
        return data

    def protocol(self, split: Split) -> RetrievalProtocol:
        """The protocol of the recipe for a split; leave-one-out if query-gallery finds no marked queries."""
        name = self.recipe.retrieval.protocol
        if name == "query-gallery" and split.queries is None:
            name = "leave-one-out"
        return make_protocol(name, split.targets, cameras=split.cameras, is_query=split.queries)

    def order(self, data: Dataset) -> Callable[[tf.Tensor], tf.Tensor] | None:
        """PK batches, if the recipe uses them."""
        each = self.recipe.retrieval.images_per_identity
        if not each:
            return None
        return pk_order(data.train.targets, self.recipe.batch_size // each, each, self.recipe.seed)

    def build(self, data: Dataset) -> keras.Model:
        """uint8 images to the concatenated inputs of the losses: vector, logits and center distances.

        The network without its top is followed by ``feature``, for triplets and centers, and ``embedding``, for classification and
        search: the same vector, or after batch normalization (BNNeck).
        """
        recipe, shape = self.recipe, data.info.image_shape
        config, identities = recipe.retrieval, _identities(data)
        options: dict[str, Any] = dict(recipe.model_options)
        backbone = create_model(recipe.model, None, shape, include_top=False, **options)
        if recipe.weights:
            load_all_but_head(backbone, recipe.weights, recipe.model, has_head=False)
            warn_of_normalization(recipe.weights, recipe.data.normalize_mean, recipe.data.normalize_std)
        if recipe.train_from:
            freeze_before(backbone, recipe.train_from)
        name = recipe.model.split("/")[-1].split("?")[0]
        image = keras.Input(shape, dtype="uint8", name="image")
        x = backbone(normalization(recipe.data.normalize_mean, recipe.data.normalize_std, shape[-1])(image))
        if config.embedding:
            x = keras.layers.Dense(config.embedding, name="projection")(x)
        feature = keras.layers.Activation("linear", name="feature")(x)
        x = feature
        if config.neck:  # without β: classes are compared by direction from the origin (Luo et al. 2019, section 3.5)
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
        outputs = keras.layers.Concatenate(name="parts")(parts) if len(parts) > 1 else embedding
        return keras.Model(image, outputs, name=name)

    def compile_arguments(self, data: Dataset) -> dict[str, Any]:
        """Weighted sum of the losses of the recipe; if there are several, each is a metric as well."""
        config, identities = self.recipe.retrieval, _identities(data)
        if config.triplet != "none" and replicas() > 1:
            raise InputError(
                f"retrieval.triplet {config.triplet} compares all images of a batch, but with TensorFlow each device sees only a "
                "part: use KERAS_BACKEND=jax, or omit --devices"
            )
        losses: list[tuple[str, keras.losses.Loss, float, int]] = []
        if config.identity_loss == "softmax":
            losses.append(("id", IdentityCrossentropy(config.label_smoothing), 1.0, identities))
        elif config.identity_loss != "none":
            margin = (config.angular_margin, config.angular_scale, config.label_smoothing)
            losses.append(("id", AngularMarginLoss(config.identity_loss, *margin), 1.0, identities))
        if config.center_weight:
            losses.append(("center", CenterLoss(), config.center_weight, identities))
        # columns are counted from the right, since the width of the vector depends on the network
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
        """Model from uint8 images to vectors of length 1, with test-time augmentation, from a model of `build`."""
        if self._embedder is None or self._embedder[0] is not model:
            vectors = keras.Model(model.input, model.get_layer("embedding").output, name=model.name)
            vectors = mean_over_views(vectors, self.recipe.retrieval.tta)
            image = keras.Input(model.input.shape[1:], dtype="uint8", name="image")
            unit = keras.layers.UnitNormalization(name="unit_length")(vectors(image))
            self._embedder = (model, keras.Model(image, unit, name=model.name))
        return self._embedder[1]

    def predict(self, model: keras.Model, split: Split) -> np.ndarray:
        """Embeddings (N, width) of length 1."""
        embeddings: np.ndarray = super().predict(self.embedder(model), split)
        return embeddings

    def outputs(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """The embeddings."""
        return {"embedding": predictions}

    def validate(self, model: keras.Model, data: Dataset) -> dict[str, float]:
        """R1, R5 and R10 of the validation split; empty if the network has diverged, which the loss shows."""
        vectors = self.predict(model, data.validation)
        if not np.isfinite(vectors).all():
            return {}
        report = evaluate(vectors, data.validation.targets, self.protocol(data.validation), ks=KS)
        return {f"R{k}": value for k, value in report.recalls.items()}

    def evaluate(self, trained: Trained) -> dict[str, Any]:
        """`RetrievalReport` of each split, for test also re-ranked if the recipe says so.

        Baselines: a random order, and the images downscaled to 16×16 pixels.
        """
        data = trained.data
        metrics: dict[str, Any] = {}
        for name, split in data.items():
            protocol = self.protocol(split)
            vectors = trained.predictions if split is data.test else self.predict(trained.model, split)
            with Wait("ranking"):
                metrics[name] = {"images": len(split), **evaluate(vectors, split.targets, protocol, ks=KS).to_plain()}
            if name == "test" and self.recipe.retrieval.rerank:
                with Wait("ranking again"):
                    distances = k_reciprocal(vectors[protocol.queries], vectors[protocol.gallery])
                report = evaluate_distances(distances, split.targets, protocol, ks=KS)
                metrics[name] |= {f"reranked {key}": report.to_plain()[key] for key in ("R1", "mAP")}
        if data.test is data.validation:
            metrics["test"]["note"] = SAME_IMAGES
        pixels = evaluate(pixel_vectors(data.test.images), data.test.targets, self.protocol(data.test), ks=KS)
        metrics["baselines"] = {"R1 of a random order": pixels.chance}
        metrics["baselines"] |= {f"R{k} of {PIXELS}×{PIXELS} pixels": value for k, value in pixels.recalls.items()}
        return metrics

    def gate_accuracy(self, metrics: Mapping[str, Any]) -> float | None:
        """R1, where every image was looked for among all others."""
        return float(metrics["test"]["R1"]) if self.recipe.retrieval.protocol == "leave-one-out" else None

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, str]:
        """R1, R5, R10 and mAP of the test split, and R1 of a random order."""
        test = metrics["test"]
        shown = {f"test {key}": f"{test[key]:.4f}" for key in ("R1", "R5", "R10", "mAP")}
        return {**shown, "R1 by chance": f"{test['chance']:.4f}"}

    def figures(self, trained: Trained) -> dict[str, Figure]:
        """Rank lists, CMC curves, histograms of distances, a map, the worst confusions and, if used for training, triplets."""
        data, vectors, model = trained.data, trained.predictions, trained.model
        labels = data.info.labels
        figures = retrieval_figures(vectors, data.test, labels, self.protocol(data.test), trained.metrics)
        config, order = self.recipe.retrieval, self.order(data)
        if order is not None and config.triplet != "none":
            batch = data.train.take(order(tf.constant(0, tf.int64)).numpy())
            compared = keras.Model(model.input, model.get_layer("feature").output)
            features = compared.predict_on_batch(np.asarray(batch.images))
            figures["triplets"] = triplet_figure(features, batch, labels, config.triplet, config.distance)
        return figures

    def samples(self, data: Dataset, count: int) -> dict[str, np.ndarray]:
        """The first test image of each of the first identities."""
        samples, test = {}, data.test
        for target in np.unique(test.targets[test.targets >= 0])[:count].tolist():
            name = re.sub(r"[^\w-]+", "_", data.info.labels[target]) or "identity"
            samples[f"{target}_{name}"] = test.images[(test.targets == target).argmax()]
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
        """The contract's task embed; R@k and mAP of each split."""
        keys, metrics = ("R1", "R5", "R10", "mAP"), trained.metrics
        measured = {split: {key: metrics[split][key] for key in keys} for split in ("train", "validation", "test")}
        return {"task": "embed", "labels": self.labels(trained.data.info), "metrics": measured}


TASK = RetrievalTask


def _identities(data: Dataset) -> int:
    return int(data.train.targets.max()) + 1
