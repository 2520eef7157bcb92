"""What the five reports print wrongly, and what is right: 47 findings, each with its evidence."""

from __future__ import annotations

from dataclasses import dataclass

from kerascv_course.core.errors import UnknownNameError

__all__ = ["ERRATA", "REPORTS", "Erratum", "errata_of", "erratum"]


@dataclass(frozen=True)
class Erratum:
    """One finding.

    Attributes:
        id: ``E<report>-<number>``.
        report: "000" to "004".
        where: question, table or section of the report.
        printed: what the report says.
        correct: what is right.
        kind: arithmetic, conceptual, convention, wording ….
        evidence: how it was found; may be empty.
    """

    id: str
    report: str
    where: str
    printed: str
    correct: str
    kind: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.id} ({self.where}): printed {self.printed!r}; right: {self.correct}"


REPORTS = ("000", "001", "002", "003", "004")

ERRATA: tuple[Erratum, ...] = (
    Erratum(
        "E000-01",
        "000",
        "Q3",
        "a conv layer with C_out=C_in, all weights equal 1/k^2, no bias, stride k equals average pooling",
        "only true for a depthwise conv, or a dense conv whose cross-channel kernels are zero; a dense all-equal 1/64"
        " kernel returns the SUM over channels of the averages in every output channel",
        "conceptual",
        "numeric check, 8x8 maps: depthwise True, dense diagonal True, dense all-equal False",
    ),
    Erratum(
        "E000-02",
        "000",
        "Q2 vs Q3",
        "Q2 stride 1; Q3 requires stride = kernel size",
        "both give the same 1x1 output on an 8x8 map, but the equivalence in Q3 must use the pool's own stride (1 here)",
        "inconsistency",
        "8x8 input, 8x8 window -> 1 position for any stride",
    ),
    Erratum(
        "E000-03",
        "000",
        "Q5",
        '"none of the layers ... cannot load"',
        "every layer of the modified network CAN load the ImageNet ResNet-18 weights; only the checkpoint's fc.weight"
        " and fc.bias are unused",
        "wording (double negative)",
        "11,689,512 - 513,000 = 11,176,512 = total of the 72 rows",
    ),
    Erratum(
        "E000-04",
        "000",
        "Q1 diagram",
        "first 512-channel block is called ResBlock, not ResBlock-D",
        "it holds a 1x1 projection (rows 60-61, 131,072 + 1,024 params) with stride 1; only the spatial size is unchanged",
        "inconsistency",
        "golden rows 55-63",
    ),
    Erratum(
        "E000-05",
        "000",
        "Q8",
        'accuracy rises "while the training and the training loss per iteration decreases"',
        "training loss per epoch and training loss per iteration",
        "wording",
        "compare Q11",
    ),
    Erratum(
        "E000-06",
        "000",
        "Q11",
        '"The training loss per epoch and the training loss per epoch decreases"',
        "training loss per iteration and per epoch",
        "wording",
        "duplicate phrase",
    ),
    Erratum(
        "E000-07",
        "000",
        "Q10",
        '230*(10*9)*229*10 = 47,403,000 "possible triplets"',
        "arithmetic right; counts ORDERED (anchor, positive) pairs. Unordered anchor-positive pairs would give 23,701,500",
        "convention",
        "computed",
    ),
    Erratum(
        "E001-01",
        "001",
        "Task 1(a) row 1",
        "2, -1, 13, -1, -17",
        "cross-correlation: 2, -1, 11, -2, -13; true convolution (what the task says): -2, 1, -11, 2, 13",
        "arithmetic",
        "image [[1,0,2,3,1],[3,2,0,7,0],[0,6,1,1,4]], Sobel-x; the last three entries equal the sum with kernel rows "
        "misaligned by one. No image at all gives the printed row: entry 3 implies S=15, entry 5 implies S=17",
    ),
    Erratum(
        "E001-02",
        "001",
        "Task 1(a) all rows",
        "values of the unflipped kernel",
        "the task asks for spatial convolution: all 15 signs flip: [[-2,1,-11,2,13],[-10,4,-8,-2,18],[-14,1,5,-6,9]]",
        "convention",
        "official TDT4265 2022 solution",
    ),
    Erratum(
        "E001-03",
        "001",
        "Task 1(b)",
        "(i) and (iii)",
        "(iii) max pooling only",
        "conceptual",
        "official solution; convolution is translation-equivariant, not invariant",
    ),
    Erratum(
        "E001-04",
        "001",
        "Task 1(g) item 2",
        "(5*5*3+1)*64 = 4,864",
        "(5*5*32+1)*64 = 51,264",
        "conceptual",
        "Keras model; official solution",
    ),
    Erratum(
        "E001-05",
        "001",
        "Task 1(g) item 3",
        "(5*5*3+1)*128 = 9,728",
        "(5*5*64+1)*128 = 204,928",
        "conceptual",
        "Keras model; official solution",
    ),
    Erratum(
        "E001-06",
        "001",
        "Task 1(g) item 6",
        "148,810",
        "390,410",
        "conceptual",
        "2432+51264+204928+131136+650; the printed sum is arithmetically consistent with its own wrong terms",
    ),
    Erratum(
        "E001-07",
        "001",
        "Task 2(b)",
        "Train Loss 0.8677; Test Loss 0.7422",
        "both are accuracies (train 0.8677, validation 0.7413, test 0.7422)",
        "label",
        "the task asks for three accuracies; official run 0.834/0.74/0.721; loss 0.87 with 74 % val acc and lower "
        "test loss than train loss is implausible",
    ),
    Erratum(
        "E001-08",
        "001",
        "Table 1 caption",
        ">85% accuracy",
        ">75 % (the task's threshold); Table 2 gives 0.7698 / 0.7742 for this model",
        "typo",
        "Table 2; assignment Task 3",
    ),
    Erratum(
        "E001-09",
        "001",
        "Table 2 model 1",
        "train loss 1.2585 with train accuracy 0.9433",
        "not possible as a plain cross-entropy mean of a normally calibrated model; L2 penalty was probably included."
        " Report CE and penalty apart",
        "inconsistency",
        "CE floor when soft-max is applied twice is 1.4612, so that is not the cause",
    ),
    Erratum(
        "E001-10",
        "001",
        "Task 3(a)",
        "learning rate 1e^{-3}",
        "0.001",
        "typo",
        "",
    ),
    Erratum(
        "E001-11",
        "001",
        "Table 3",
        "layer number 5 is given to Dropout and to the last FC",
        "Dropout(0.6) sits between FC-64 and FC-10",
        "label",
        "",
    ),
    Erratum(
        "E001-12",
        "001",
        "Table 1 vs text",
        "text says 20 % dropout and L2 for model 1; the table has no dropout row and no L2 coefficient",
        "unspecified",
        "omission",
        "",
    ),
    Erratum(
        "E001-13",
        "001",
        "Task 3(f)",
        "no over-fitting",
        "train 0.9782 vs val 0.820 / test 0.8097: a 16-17 point gap is over-fitting",
        "conceptual",
        "Table 2",
    ),
    Erratum(
        "E001-14",
        "001",
        "Task 4(a)",
        "resizing to 224x244",
        "224x224",
        "typo",
        "assignment Task 4(a)",
    ),
    Erratum(
        "E002-01",
        "002",
        "2.2.2 table",
        "module list has Dropout(p=0.2) between avgpool and fc",
        "the summary has no Dropout row: as run, that module was never called",
        "inconsistency",
        "214 rows; forward/backward 81.42195 MB without the row (prints 81.42), 81.42976 with it (would print 81.43)",
    ),
    Erratum(
        "E002-02",
        "002",
        "Table 5",
        'resnet18 Val Acc 0.89860 but "Accuracy = 0.8918"',
        "two different numbers for one model on the validation set; for myNet they agree (0.88980 = 0.8898)",
        "inconsistency",
        "4493 vs 4459 of 5000",
    ),
    Erratum(
        "E002-03",
        "002",
        "2.4",
        "GoogLeNet before customising: 0.8898; DenseNet 0.876",
        "0.8898 is also the final MyNet accuracy in Table 5, so the gain from the customising is not shown",
        "inconsistency",
        "",
    ),
    Erratum(
        "E002-04",
        "002",
        "2.2.3 conv1",
        "3x3 stride 1 with padding 3",
        "gives 36x36 maps and a ring of pure-padding outputs; 3x3 needs padding 1 for 32x32 (kernel was shrunk, "
        "padding left over from 7x7)",
        "oddity (not an arithmetic error)",
        "36/18/9/5 vs 32/16/8/4; params unchanged",
    ),
    Erratum(
        "E002-05",
        "002",
        "1.2.2",
        "step size of the kmean() function",
        "k-means has no step; the tunable is the vocabulary size (400)",
        "wording",
        "",
    ),
    Erratum(
        "E002-06",
        "002",
        "1.2.1",
        "L1/L2 norm written for matrices",
        "the features are flattened vectors; np.linalg.norm(ord=1) on a 2-D array would be the max column sum instead",
        "convention",
        "",
    ),
    Erratum(
        "E002-07",
        "002",
        "1.2.3",
        "symmetry of the confusion matrix -> higher accuracy",
        "accuracy is the mean of the diagonal; symmetry does not imply it",
        "conceptual",
        "",
    ),
    Erratum(
        "E002-08",
        "002",
        "1.2.1",
        "L1 normalisation passes the 0.2 baseline",
        "k=2,3,6,9 stay below 0.2 and k=7 equals it; only k=1,4,5,8,10 exceed it",
        "inconsistency",
        "Table 2",
    ),
    Erratum(
        "E002-09",
        "002",
        "2.2.1/2.2.3 text",
        "interleaved line numbers",
        "pages that start at 167 (MyNet) and 1 and 59 (ResNet18) number the wrapped physical lines; 4 closing "
        "brackets are lost in MyNet (one in the padding tuple at line 130) and 2 in ResNet18",
        "conversion",
        "bracket count; all 64+20 convs still parse and match",
    ),
    Erratum(
        "E003-01",
        "003",
        "discussion",
        "loss not decreasing because checkpoints have small gradients; use a larger learning rate",
        "the printed loss is the running mean since the epoch start, so it cannot show a per-step trend; a larger "
        "rate on a converged model is not supported by the data",
        "conceptual",
        "starter main.py prints train_loss/(batch_index+1)",
    ),
    Erratum(
        "E003-02",
        "003",
        "title/Q2",
        "ResNet50",
        "the network has 40 weighted layers on the main path (1+3*13) plus 1 FC = 41; the conv5 stage is absent",
        "naming",
        "counts",
    ),
    Erratum(
        "E003-03",
        "003",
        "Q1",
        'output floor((H-1)/2+1) "which is H/2"',
        "H/2 only for even H; (H+1)/2 for odd H",
        "condition",
        "",
    ),
    Erratum(
        "E004-01",
        "004",
        "1.1.1 t=1",
        "w1^T = -(2 eta/b) t^T B0",
        "+(2 eta/b) t_B0^T B0",
        "sign",
        "numeric check",
    ),
    Erratum(
        "E004-02",
        "004",
        "1.1.1",
        "t^T B_i and t^T S_i^T X",
        "dimension error: must be t_B^T B_i = t^T S_i S_i^T X (S is n x b)",
        "algebra",
        "shapes",
    ),
    Erratum(
        "E004-03",
        "004",
        "1.1.1 last part",
        "S in R^{n x d}",
        "S in R^{n x b}",
        "typo",
        "shapes",
    ),
    Erratum(
        "E004-04",
        "004",
        "1.1.1 last part",
        "(a^T XX^T - t^T) S = 0 implies a^T XX^T = t^T",
        "not for one S (n x b, b<n); the step is legitimate only because X w = t is assumed, or for all mini-batches together",
        "logic gap",
        "conclusion w = X^T (XX^T)^-1 t is right (SGD run: max diff 4e-16)",
    ),
    Erratum(
        "E004-05",
        "004",
        "1.2.1 gradients",
        "[-2, -1] at w=0",
        "[-8, -4] (n=1: 2*(0-2)*[2,1])",
        "arithmetic",
        "the printed formula itself",
    ),
    Erratum(
        "E004-06",
        "004",
        "1.2.1 counter-example",
        "eta=2/7, beta=0.91, eps=0.2 -> w=(5/7,4/7), loss 0",
        "with the right gradient these give w=(0.87912,0.81633), loss 0.33013; eta=91/410 gives w=(28/41,26/41), loss"
        " 0, norm^2 0.8685 > 0.8",
        "arithmetic (conclusion still holds)",
        "exact fractions",
    ),
    Erratum(
        "E004-07",
        "004",
        "2.1.2 forward",
        "O(t)",
        "O(1) for the forward pass on its own (only the current w is kept); O(t) only when every w_i is stored for "
        "back-propagation, which is O(t)",
        "conceptual/debatable",
        "reasoning",
    ),
    Erratum(
        "E004-08",
        "004",
        "2.2.1",
        "L-tilde used for the unregularised loss",
        "L",
        "notation",
        "",
    ),
    Erratum(
        "E004-09",
        "004",
        "3.3",
        "second 3x3 layer aggregates three neurons",
        "3x3 = nine neurons; receptive field 5x5",
        "wording",
        "rf = 1 + sum (k-1) prod strides",
    ),
    Erratum(
        "E004-10",
        "004",
        "3.2",
        "FCNC",
        "FCNN",
        "typo",
        "",
    ),
    Erratum(
        "E004-11",
        "004",
        "5.3",
        'heights and weights; Upsample replicates "outside values"; better because strided/transposed convs add '
        "learnable parameters",
        "heights and widths; nearest up-sampling repeats inside values; the two models have EXACTLY the same number "
        "of parameters (49,728 trainable, 49,248 weights), so the gain is not from more parameters",
        "conceptual",
        "Keras models, NIC=1, NF=32, NC=24, k=3",
    ),
    Erratum(
        "E004-12",
        "004",
        "5.4 strided conv, k=5",
        "padding 1.5 rounded up to 2",
        "2 is right, and is the only integer, because of the floor in the formula (2p in {3,4}); rounding up is not the rule",
        "reasoning",
        "enumeration",
    ),
    Erratum(
        "E004-13",
        "004",
        "5.4 fifth block, k=4",
        "padding = 2",
        "no symmetric padding gives 32: p=1 -> 31, p=2 -> 33; needs 1+2 asymmetric",
        "arithmetic",
        "formula",
    ),
    Erratum(
        "E004-14",
        "004",
        "4.3",
        "BatchNorm counted in outputs, but 0 weights and 0 connections; MaxPool/Upsample 0 connections",
        "inconsistent counting. Without BN outputs are 2880 NF + 3328 NC (32) and 11520 NF + 13312 NC (64)",
        "convention",
        "172,032 and 688,128 for NF=32, NC=24",
    ),
)


def erratum(identifier: str) -> Erratum:
    """The finding with an identifier such as ``"E001-04"``.

    Raises:
        UnknownNameError: there is none.
    """
    for found in ERRATA:
        if found.id == identifier.upper():
            return found
    raise UnknownNameError("erratum", identifier, [e.id for e in ERRATA])


def errata_of(report: str) -> tuple[Erratum, ...]:
    """The findings of one report, ``"000"`` to ``"004"``.

    Raises:
        UnknownNameError: another report.
    """
    if report not in REPORTS:
        raise UnknownNameError("report", report, REPORTS)
    return tuple(e for e in ERRATA if e.report == report)
