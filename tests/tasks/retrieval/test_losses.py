"""Losses for identities against values computed by hand and pytorch-metric-learning."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerascv_course.core.errors import InputError
from kerascv_course.tasks.retrieval.losses import (
    AngularMarginLoss,
    CenterDistances,
    CenterLoss,
    CosineLogits,
    IdentityCrossentropy,
    TripletLoss,
    WeightedParts,
    pair_distances,
    pick,
)

#: Two identities on a line: a at 0 and 1, b at 3 and 3.5.
LINE, PAIRS = np.array([[0.0], [1.0], [3.0], [3.5]], np.float32), np.array([0, 0, 1, 1])


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 6)).astype(np.float32), np.repeat(np.arange(5), 4)


def value(loss, targets, outputs):
    return float(keras.ops.convert_to_numpy(loss(targets, keras.ops.cast(outputs, "float32"))))


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # of each anchor: farthest positive less nearest negative: 1 − 3, 1 − 2, .5 − 2, .5 − 2.5
        ({"mining": "batch-hard", "margin": 1.6}, (0 + 0.6 + 0.1 + 0) / 4),
        ({"mining": "batch-hard", "soft_margin": True}, (softplus(-2) + softplus(-1) + softplus(-1.5) + softplus(-2)) / 4),
        # gaps of all triplets: −2, −2.5; −1, −1.5; −2.5, −1.5; −3, −2
        ({"mining": "batch-all", "margin": 1.8}, (0.8 + 0.3 + 0.3) / 3),
        ({"mining": "semi-hard", "margin": 1.2}, 0.2),
        ({"mining": "semi-hard", "margin": 0.5}, 0.0),
        # one positive each; the choice of negatives changes the mean by at most 0.5
        ({"mining": "random", "margin": 100.0}, 100 - 2.0),
    ],
)
def test_triplet_loss_computed_by_hand(options, expected):
    tolerance = 0.51 if options["mining"] == "random" else 1e-6
    assert value(TripletLoss(**options), PAIRS, LINE) == pytest.approx(expected, abs=tolerance)


def test_triplet_loss_without_triplets_is_zero_with_finite_gradients():
    for targets in ([0, 1, 2, 3], [0, 0, 0, 0]):
        for mining in ("random", "semi-hard", "batch-hard", "batch-all"):
            vectors = tf.Variable(np.ones((4, 2), np.float32))  # all identical
            with tf.GradientTape() as tape:
                cost = TripletLoss(mining)(np.array(targets), vectors)
            assert float(cost) == 0
            gradient = tape.gradient(cost, vectors)
            assert gradient is None or np.isfinite(gradient).all()


def test_pair_distances_cosine_computed_by_hand():
    vectors = np.array([[2, 0], [0, 3], [-1, 0]], np.float32)
    distances = keras.ops.convert_to_numpy(pair_distances(vectors, "cosine"))
    np.testing.assert_allclose(distances, [[0, 1, 2], [1, 0, 1], [2, 1, 0]], atol=1e-7)


def test_random_triplets_cover_the_batch(batch):
    """Negatives come from all identities, and no image is its own positive."""
    vectors, targets = batch
    distances = keras.ops.convert_to_numpy(pair_distances(vectors))
    same = targets[:, None] == targets
    chosen = {}
    for name, where in (("positive", same & ~np.eye(20, dtype=bool)), ("negative", ~same)):
        chosen[name] = keras.ops.convert_to_numpy(pick(where)).tolist()
        assert all(where[i, j] for i, j in enumerate(chosen[name]))
    assert len({targets[j] for j in chosen["negative"]}) == 5 and len(set(chosen["negative"])) > 8
    expected = np.mean(
        [max(0, distances[i, chosen["positive"][i]] - distances[i, chosen["negative"][i]] + 1) for i in range(20)]
    )
    assert value(TripletLoss("random", margin=1.0), targets, vectors) == pytest.approx(expected, rel=1e-5)


def test_identity_crossentropy_computed_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    assert value(IdentityCrossentropy(), [0, 2], logits) == pytest.approx(-(math.log(0.5) + math.log(0.8)) / 2, abs=1e-6)
    smoothed = -(0.8 * math.log(0.5) + 0.1 * math.log(0.25) * 2)
    assert value(IdentityCrossentropy(0.3), [0], logits[:1]) == pytest.approx(smoothed, abs=1e-6)
    assert value(IdentityCrossentropy(), [3], logits[:1]) == value(IdentityCrossentropy(), [0], logits[:1])


def test_angular_margin_loss_computed_by_hand():
    cosines = np.array([[math.cos(1.0), 0.2]])

    def entropy(own):
        return math.log(1 + math.exp(4 * (0.2 - own)))

    assert value(AngularMarginLoss("arcface", 0.5, 4), [0], cosines) == pytest.approx(entropy(math.cos(1.5)), abs=1e-5)
    assert value(AngularMarginLoss("cosface", 0.35, 4), [0], cosines) == pytest.approx(entropy(math.cos(1.0) - 0.35), abs=1e-5)
    turned_beyond = np.array([[math.cos(3.0), 0.2]])
    expected = entropy(math.cos(3.0) - 0.5 * math.sin(0.5))
    assert value(AngularMarginLoss("arcface", 0.5, 4), [0], turned_beyond) == pytest.approx(expected, abs=1e-5)


def test_center_loss_computed_by_hand():
    layer = CenterDistances(2)
    layer.build((None, 2))
    layer.centers.assign([[0.0, 0.0], [1.0, 1.0]])
    distances = layer(np.array([[3.0, 4.0], [1.0, 0.0]], np.float32))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(distances), [[25, 13], [1, 1]], atol=1e-5)
    assert value(CenterLoss(), [0, 1], distances) == pytest.approx((25 / 2 + 1 / 2) / 2, abs=1e-6)


def test_weighted_parts_computed_by_hand():
    outputs = np.concatenate([LINE, np.log(np.full((4, 2), 0.5))], axis=1)
    triplet = TripletLoss("batch-hard", margin=1.6)
    loss = WeightedParts({"id": (IdentityCrossentropy(), 2.0, 1, 3), "triplet": (triplet, 0.5, 0, 1)})
    assert value(loss, PAIRS, outputs) == pytest.approx(2 * math.log(2) + 0.5 * 0.175, abs=1e-6)
    assert float(loss.part("triplet", PAIRS, outputs.astype(np.float32))) == pytest.approx(0.175, abs=1e-6)


def test_losses_reject_bad_arguments():
    with pytest.raises(InputError, match="margin of triplets must be above 0; received 0"):
        TripletLoss(margin=0)
    with pytest.raises(InputError, match="received 'hardest'"):
        TripletLoss("hardest")
    with pytest.raises(InputError, match="must be arcface or cosface"):
        AngularMarginLoss("sphereface")


def test_layers_and_losses_are_serialized_with_their_arguments(tmp_path):
    image = keras.Input((3,))
    model = keras.Model(image, [CosineLogits(4)(image), CenterDistances(4)(image)])
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    vectors = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for one, other in zip(model.predict(vectors, verbose=0), again.predict(vectors, verbose=0), strict=True):
        np.testing.assert_array_equal(one, other)
    for loss in (TripletLoss("semi-hard", 0.7, True, "cosine"), AngularMarginLoss("cosface", 0.2, 16.0, 0.1)):
        config = keras.saving.serialize_keras_object(loss)
        assert keras.saving.deserialize_keras_object(config).get_config() == loss.get_config()


# --- pytorch-metric-learning ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pml():
    pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed (extra [compare])")
    import torch
    from pytorch_metric_learning import distances, losses, miners, reducers

    torch.set_num_threads(1)
    return torch, losses, miners, distances, reducers


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("soft", [False, True], ids=["margin", "soft margin"])
@pytest.mark.parametrize("mining", ["semi-hard", "batch-hard", "batch-all"])
def test_triplet_loss_equals_pytorch_metric_learning(pml, batch, mining, soft, distance):
    torch, losses, miners, distances, reducers = pml
    vectors, targets = torch.tensor(batch[0], requires_grad=True), torch.tensor(batch[1])
    margin = 0.6
    # their cosine is a similarity: 1 − cosine is half the squared distance of unit vectors
    measure = distances.LpDistance(normalize_embeddings=distance == "cosine", power=2 if distance == "cosine" else 1)
    scale = 2 if distance == "cosine" else 1
    miner = {
        "semi-hard": lambda: miners.TripletMarginMiner(margin * scale, "semihard", distance=measure, collect_stats=False),
        "batch-hard": lambda: miners.BatchHardMiner(distance=measure),
        "batch-all": lambda: None,
    }[mining]()
    reducer = reducers.MeanReducer() if mining == "batch-hard" else reducers.AvgNonZeroReducer()
    if soft and distance == "cosine":
        pytest.skip("their soft margin has no scale to turn squared distances into cosines")
    theirs = losses.TripletMarginLoss(0 if soft else margin * scale, smooth_loss=soft, distance=measure, reducer=reducer)
    cost = theirs(vectors, targets, miner(vectors, targets) if miner else None) / scale
    cost.backward()
    loss = TripletLoss(mining, margin, soft, distance)
    assert value(loss, batch[1], batch[0]) == pytest.approx(float(cost.detach()), rel=1e-5)

    ours = tf.Variable(batch[0])
    with tf.GradientTape() as tape:
        result = loss(batch[1], ours)
    np.testing.assert_allclose(tape.gradient(result, ours), vectors.grad, atol=2e-6)


@pytest.mark.parametrize(("kind", "margin"), [("arcface", 0.5), ("cosface", 0.35)])
def test_angular_margin_loss_equals_pytorch_metric_learning(pml, batch, kind, margin):
    torch, losses, *_ = pml
    vectors, targets = batch
    if kind == "arcface":
        theirs = losses.ArcFaceLoss(5, 6, margin=math.degrees(margin), scale=30)
    else:
        theirs = losses.CosFaceLoss(5, 6, margin=margin, scale=30)
    layer = CosineLogits(5)
    layer.build((None, 6))
    layer.kernel.assign(theirs.W.detach().numpy())
    cost = theirs(torch.tensor(vectors), torch.tensor(targets))
    assert value(AngularMarginLoss(kind, margin, 30.0), targets, layer(vectors)) == pytest.approx(
        float(cost.detach()), rel=1e-5
    )
