"""Toronto CSC413, assignment 2 (report 004, parts 4–6): horses of CIFAR-10 colorized by three networks with 24 colors.

Settings of the assignment: RGB/256, gray as the mean of the channels, the nearest of 24 k-means colors as the class of a pixel,
pixel-wise cross-entropy, Adam with rate 1e-3, batches of 100 in fixed order, kernel 3, 32 filters, one input channel. Three
differences:

* The assignment validates on the 1,000 test horses after every epoch. Here 100 training horses (102,400 pixels) select the
  checkpoint, and the test horses are used once.
* 4,900 horses are left for training, so an epoch has 49 steps instead of 50. 26 epochs (1,274 steps) are the smallest number with
  at least the assignment's 1,250 steps.
* The course's palette file is not public, so the palette is computed. Palettes of equal quality differ in how well the gray level
  of a pixel predicts its class (0.59 to 0.63 over eight seeds), and the accuracy of every network depends on it. Of eight seeds
  the one is used whose classes a lookup by gray level predicts best on the training horses; results are comparable with the
  report's, but not to the last digit.
"""

from __future__ import annotations

from dataclasses import replace

from kerascv_course.config import Augmentation, Data, Optimizer, Schedule
from kerascv_course.tasks.colorization.config import Colorization, ColorizationRecipe

_REPORTED = ColorizationRecipe(
    name="csc413-pool-upsample",
    description="report 004, part 4: horses colorized by pooling and upsampling (reported: pixel accuracy 0.413, loss 1.5877)",
    expect="test pixel accuracy 0.4133 ± 0.0015 over seeds 0, 1, 2, loss 1.5788; 2 minutes on two busy CPU cores",
    model="pool_upsample_net",
    # pixels / 256
    data=Data("cifar10", only=("horse",), validation_share=0.02, normalize_mean=(0.0,), normalize_std=(256 / 255,)),
    colorization=Colorization(palette_seed=1),
    optimizer=Optimizer("adam", learning_rate=1e-3),
    epochs=26,
    batch_size=100,
    shuffle=False,
)

RECIPES = [
    _REPORTED,
    replace(
        _REPORTED,
        name="csc413-conv-transpose",
        description="report 004, part 5: strides and transposed convolutions (reported: pixel accuracy 0.554, loss 1.1440)",
        expect="test pixel accuracy 0.5604 ± 0.0056 over seeds 0, 1, 2, loss 1.1338; 2 minutes on two busy CPU cores",
        model="conv_transpose_net",
    ),
    replace(
        _REPORTED,
        name="csc413-unet",
        description="assignment, part 6 (not in report 004): csc413-conv-transpose with skip connections",
        expect="test pixel accuracy 0.5912 ± 0.0055 over seeds 0, 1, 2, loss 1.0590; 2 to 4 minutes on two busy CPU cores",
        model="unet_colorizer",
    ),
    replace(
        _REPORTED,
        name="csc413-unet-best",
        description="csc413-unet with better training: scaled input, higher rate with decay, smaller batches, random flips",
        expect="test pixel accuracy 0.6214 with seed 0, loss 0.9941; 2 minutes on two busy CPU cores",
        model="unet_colorizer",
        data=replace(_REPORTED.data, normalize_mean=(0.5,), normalize_std=(0.25,)),
        augmentation=Augmentation(flip=True),
        optimizer=Optimizer("adamw", learning_rate=6e-3, weight_decay=1e-3),
        schedule=Schedule("cosine", warmup_epochs=1),
        colorization=replace(_REPORTED.colorization, decode="annealed-mean", keep_gray=True),
        epochs=14,
        batch_size=50,
        shuffle=True,
    ),
]
