"""HKUST, programming assignment 2 (report 000): person re-identification with a ResNet-18 of last stride 1.

The course's images are not public; --data-dir is a folder with train/ and val/, each with a folder per identity, or another layout
that `kerascv_course.data.identities` reads. The report gives no settings: learning rate, epochs, batches and augmentation are ours.
Its head is dropout and a dense layer on the pooled features; its triplets are random, Euclidean with margin 1 (PyTorch's defaults).
It evaluates the 49 validation identities after each epoch and keeps the last checkpoint, so nothing is selected on them.

The *best* recipes add the methods of Luo et al. 2019 ("Bag of tricks and a strong baseline for deep person re-identification"):
warmup, label smoothing, random erasing, crops, BNNeck, identity and triplet loss together, center loss.
"""

from __future__ import annotations

from dataclasses import replace

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.tasks.retrieval.config import Retrieval, RetrievalRecipe

_ID = RetrievalRecipe(
    name="hkust-id",
    description="report 000, question 8: ResNet-18 trained by cross-entropy over identities, search by its pooled features",
    expect="R1 0.307 ± 0.024, R5 0.611, R10 0.743 on 49 faces of lfw279 at 64×64 (three seeds); 6 minutes on two CPU cores",
    model="resnet18_reid",
    data=Data("identities", image_size=(128, 128), normalize_mean=(0.5,), normalize_std=(0.25,)),
    augmentation=Augmentation(flip=True),
    optimizer=Optimizer("adam", learning_rate=5e-4),
    epochs=40,
    batch_size=32,
    monitor="last",
    retrieval=Retrieval(dropout=0.5),
)
_TRIPLET = replace(
    _ID,
    name="hkust-triplet",
    description="report 000, question 11: the same network trained by random triplets (reported: R1 0.67, R5 0.83)",
    expect="R1 0.278 ± 0.018, R5 0.670, R10 0.838 on 49 faces of lfw279 at 64×64 (three seeds); 7 minutes on two CPU cores",
    retrieval=Retrieval(identity_loss="none", triplet="random", margin=1.0, images_per_identity=4),
)
_BEST = replace(
    _ID,
    name="hkust-id-best",
    description="hkust-id with better training: warmup, cosine decay, label smoothing, crops, random erasing, BNNeck",
    expect="not run to its end yet; use a GPU for 128×128, or --data.image-size 64 64",
    augmentation=Augmentation(flip=True, translate=10, erase=0.5),
    optimizer=Optimizer("adam", learning_rate=1e-3, weight_decay=5e-4, decay_norms=False),
    schedule=Schedule("cosine", warmup_epochs=5),
    epochs=60,
    precision="auto",
    fused=True,
    retrieval=Retrieval(neck=True, dropout=0.0, label_smoothing=0.1, tta="flip"),
)

RECIPES = [
    _ID,
    _TRIPLET,
    _BEST,
    replace(
        _BEST,
        name="hkust-triplet-best",
        expect="R1 0.25, R5 0.51, R10 0.69 on 49 faces of lfw279 at 64×64 with seed 0, undertrained; 23 minutes on two busy CPU cores",
        description="hkust-id-best with batch-hard triplets, in batches of 16 identities, and center loss",
        batch_size=64,
        retrieval=replace(
            _BEST.retrieval, triplet="batch-hard", soft_margin=True, images_per_identity=4, center_weight=5e-4, rerank=True
        ),
    ),
]
