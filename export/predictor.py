"""Prediction from an exported file alone: NumPy, onnxruntime, and Pillow to open images. No TensorFlow, no Keras."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnxruntime
from PIL import Image

from export.contract import Contract, ContractError, parse_contract
from export.serving import preprocess
from export.untrusted.guard import alive, running
from export.untrusted.isolated import IsolatedSession
from export.untrusted.screen import screen
from kerascv_course.core.errors import CourseError, InputError
from kerascv_course.core.images import ImageError, convert_image, image_suffixes, read_image, resize_image

__all__ = ["Neighbors", "OnnxModel", "Predictions", "ProviderError", "expand_paths", "lay_colors", "open_session"]

Provider = Literal["cpu", "cuda"]

#: Severities of onnxruntime's log; the first is its default.
WARNING, FATAL = 2, 4

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


#: Types of a graph's input, as onnxruntime writes them.
ONNX_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}

#: Side in pixels of the tiles in which large images are colorized: about 150 MB for 24 colors.
TILE = 512


#: Bytes of images that are loaded at once from files.
MAX_LOADED = 2**26


class ProviderError(CourseError):
    """The requested provider is not available here."""


class Predictions(NamedTuple):
    """Predictions for a batch.

    Attributes:
        labels: the top class of each image: its name, or its number as text if the file has no labels.
        scores: float32 (N, classes), the probabilities of all classes.
    """

    labels: list[str]
    scores: np.ndarray

    def top(self, count: int) -> list[list[tuple[int, float]]]:
        """The `count` top classes of each image with their scores, highest first; at equal scores the lower class first."""
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        return [[(int(c), float(row[c])) for c in best] for best, row in zip(order, self.scores, strict=True)]


class Neighbors(NamedTuple):
    """The nearest gallery entries of a batch.

    Attributes:
        names: of each image's nearest entries, nearest first.
        distances: float32 (N, k), to these, between vectors of length 1: 0 to 2.
        numbers: int64 (N, k), of these in the gallery.
    """

    names: list[list[str]]
    distances: np.ndarray
    numbers: np.ndarray


def open_session(
    path: str | Path,
    *,
    provider: Provider = "cpu",
    optimize: bool = True,
    threads: int = 0,
    arena: bool = True,
    screened: bool = False,
    trust: bool = False,
) -> onnxruntime.InferenceSession:
    """Open an ONNX file in onnxruntime.

    Args:
        path: the file.
        provider: where it runs; never on the CPU in place of another.
        optimize: let onnxruntime rewrite the graph.
        threads: per call; 0: one per core.
        arena: let onnxruntime keep CPU memory between calls, as much as the largest needed.
        screened: the file went through `export.untrusted.screen` already.
        trust: accept all of ONNX's operators (`export.untrusted.screen.screen`).

    Raises:
        ContractError: missing, or not an ONNX model that onnxruntime can run.
        ProviderError: the provider is not available.
    """
    path = Path(path)
    if not screened:
        screen(path, trust=trust)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = arena
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted = PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        raise ProviderError(f"this onnxruntime has no {wanted}: {_remedy()}, or use --provider cpu")
    if provider == "cuda":
        _load_cuda()
        onnxruntime.set_default_logger_severity(FATAL)  # `_why_not_cuda` tells what it would print
    try:
        with running():
            session = onnxruntime.InferenceSession(str(path), options, providers=[wanted])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ContractError(f"onnxruntime {onnxruntime.__version__} cannot run {path}: {_first_line(error)}") from None
    finally:
        onnxruntime.set_default_logger_severity(WARNING)
    if wanted not in session.get_providers():
        raise ProviderError(
            f"{wanted} cannot be used here: {_why_not_cuda()} (onnxruntime would silently run on the CPU instead)"
        )
    return session


def _load_cuda() -> None:
    """Load CUDA and cuDNN from NVIDIA's Python packages, where they are installed: onnxruntime does not look there by itself."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what is missing, which `_why_not_cuda` tells
        onnxruntime.preload_dlls()


def _remedy() -> str:
    """What to install for CUDA."""
    both = ("onnxruntime", "onnxruntime-gpu")
    if all(any(metadata.distributions(name=name)) for name in both):
        return f"{' and '.join(both)} are both installed and overwrite each other: uninstall both, then install onnxruntime-gpu"
    return "install onnxruntime-gpu"


def _why_not_cuda() -> str:
    """The loader's reason for not loading the CUDA provider."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    for library in sorted(folder.glob("*onnxruntime_providers_shared.*")) + sorted(
        folder.glob("*onnxruntime_providers_cuda.*")
    ):
        try:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return f"{error}: pip install 'kerascv_course[gpu]' brings CUDA's libraries"
    return "no NVIDIA GPU that its driver offers"


class OnnxModel:
    """An exported file, ready to predict.

    Threads may share it. It can be pickled, and used after a fork: the other process opens the file anew.

    Args:
        path: a file with our contract in its metadata.
        provider: ``"cpu"`` or ``"cuda"``.
        threads: per call; 0: one per core.
        arena: let onnxruntime keep CPU memory between calls, as much as the largest needed.
        trust: accept all of ONNX's operators, not only those that exported files and usual vision networks have.
        isolated: run the file in a process of its own, for files that nobody vouches for: a crash, an endless computation or too much
            memory ends that process and is one of our errors here, and the next call starts another. A call costs a copy of the
            pixels and answers, and calls of several threads take turns.
        opened: the file's session and contract, if already open; the other arguments are then ignored.

    Raises:
        ContractError: not such a file, or its contract does not fit its graph.
        ProviderError: the provider is not available.

    Attributes:
        path: the file.
        contract: its contract.
        session: the onnxruntime session.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        provider: Provider = "cpu",
        threads: int = 0,
        arena: bool = True,
        trust: bool = False,
        isolated: bool = False,
        opened: tuple[Any, Contract] | None = None,
    ) -> None:
        self.path = Path(path)
        self._options: dict[str, Any] = {"provider": provider, "threads": threads, "arena": arena, "trust": trust}
        self._isolated = isolated
        if opened is None:
            session = self._open()
            opened = session, parse_contract(session.get_modelmeta().custom_metadata_map, what=str(path))
        self.session, self.contract = opened
        self._process = os.getpid()
        spec = self.contract.input
        self._dtype, self._size = np.dtype(spec.dtype), (spec.height, spec.width, spec.channels)
        self._shapes: dict[str, tuple[int | None, ...]] = {}
        for output in self.contract.outputs:
            self._shapes[output.name] = output.shape
        sizes = {"H": spec.height, "W": spec.width, "C": spec.channels}
        promised = [(spec.name, ONNX_TYPES[spec.dtype], *map(sizes.get, spec.layout[1:]))]
        inputs = []
        for item in self.session.get_inputs():
            shape = list(item.shape[1:])
            for axis, size in enumerate(shape):
                shape[axis] = None if isinstance(size, str) else size  # the name of an open size
            inputs.append((item.name, item.type, *shape))
        if inputs != promised:
            raise ContractError(f"the contract of {path} promises the input {promised}; the graph has {inputs}")
        names = list(map(attrgetter("name"), self.session.get_outputs()))
        if names != list(self._shapes):
            raise ContractError(f"the contract of {path} promises other outputs than the graph has: {names}")

    def _open(self) -> Any:
        return IsolatedSession(self.path, **self._options) if self._isolated else open_session(self.path, **self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(OnnxModel, self.path.resolve(), **self._options, isolated=self._isolated), ()

    def predict(self, images: Any, *, batch_size: int = 64) -> Predictions:
        """Classify images.

        Args:
            images: uint8 pixels of one image (height, width[, channels]) or of several (N, height, width, channels); or a file
                name; or a list of images and file names. Gray, color, transparent, 16-bit and palette images of any size
                are converted as `kerascv_course.core.images.read_image` describes.
            batch_size: images per call of the session.

        Raises:
            ImageError: a file that is not an image, or an array of another type or shape.
            ContractError: the file's task is not classification.
        """
        if not self.contract.classifies:
            other = {"colorize": "colorize", "rank": "nearest"}.get(self.contract.task, "run")
            raise ContractError(f"{self.path} has the task {self.contract.task!r}, whose outputs have no labels: use {other}()")
        output = self.contract.output("probabilities")
        assert output is not None  # the contract of a classifier has one
        scores = self._run(images, batch_size, [output.name])[output.name]
        names = self.contract.labels or list(map(str, range(scores.shape[1])))
        return Predictions(list(map(names.__getitem__, scores.argmax(axis=1).tolist())), scores)

    def nearest(self, images: Any, *, batch_size: int = 64) -> Neighbors:
        """The nearest gallery entries of each image; the arguments are `predict`'s.

        Raises:
            ImageError: as `predict`.
            ContractError: the file's task is not ranking, or it returns numbers outside its gallery.
        """
        numbers, distances = (self.contract.output(meaning) for meaning in ("neighbors", "distances"))
        if self.contract.task != "rank" or numbers is None or distances is None:
            raise ContractError(f"{self.path} has the task {self.contract.task!r}, not 'rank': it has no gallery")
        outputs = self._run(images, batch_size, [numbers.name, distances.name])
        found, gallery = outputs[numbers.name], self.contract.gallery
        if found.ndim != 2 or found.dtype.kind != "i" or found.min() < 0 or found.max() >= len(gallery):
            raise ContractError(f"{self.path} answers with other numbers than those of its {len(gallery)} gallery entries")
        return Neighbors([[gallery[number] for number in row] for row in found.tolist()], outputs[distances.name], found)

    def colorize(self, image: np.ndarray | str | Path, *, colors_at: int | None = None, tile: int = TILE) -> np.ndarray:
        """Colorize one image.

        Args:
            image: uint8 pixels (height, width[, channels]) or a file name, gray or color, of any size.
            colors_at: predict the colors on a copy whose longer side has this many pixels, and apply them to the image's own
                gray levels. A network sees a few pixels around each pixel: in the copy they are a part of the scene, in a
                photograph of many megapixels a smooth patch. None: colorize at full size.
            tile: side in pixels of the tiles in which large images are processed, which bounds the memory. Tiles overlap by the
                receptive field, so the result equals that of the whole image up to float32 rounding.

        Returns:
            uint8 (height, width, 3), RGB.

        Raises:
            ImageError: a file that is not an image, or an array of another type or shape.
            ContractError: the file's task is not colorization.
            InputError: `tile` or `colors_at` out of range.
        """
        if self.contract.task != "colorize":
            raise ContractError(f"{self.path} has the task {self.contract.task!r}, not 'colorize'")
        if tile < 1 or (colors_at is not None and colors_at < 1):
            raise InputError(f"tile and colors_at are 1 pixel or more; received {tile} and {colors_at}")
        pixels = self.load(image)
        longer = max(pixels.shape[:2])
        if colors_at is None or colors_at >= longer:
            return self._colorize_tiles(pixels, tile)
        size = [max(1, round(n * colors_at / longer)) for n in pixels.shape[:2]]
        small = resize_image(Image.fromarray(pixels), size[0], size[1], "bilinear")
        return lay_colors(self._colorize_tiles(small, tile), pixels)

    def _colorize_tiles(self, pixels: np.ndarray, tile: int) -> np.ndarray:
        tiling = self.contract.tiling
        colorized = self.contract.output("picture")
        assert colorized is not None  # the contract of a colorizer has one
        height, width = pixels.shape[:2]
        if tiling is None:
            step, overlap = max(height, width), 0
        else:
            step, overlap = -(-tile // tiling.multiple) * tiling.multiple, tiling.overlap
        result = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, step):
            for left in range(0, width, step):
                above, before = max(top - overlap, 0), max(left - overlap, 0)
                part = pixels[None, above : top + step + overlap, before : left + step + overlap]
                answer = self._run_batch(part, [colorized.name])[colorized.name]
                if answer.shape != (1, *part.shape[1:3], 3) or answer.dtype != np.uint8:
                    raise ContractError(
                        f"{self.path} promises uint8 images of the input's size; it returns {answer.dtype} {answer.shape} for "
                        f"{part.shape}"
                    )
                kept = answer[0, top - above :, left - before :][:step, :step]
                result[top : top + step, left : left + step] = kept
        return result

    def run(self, images: Any, *, batch_size: int = 64) -> dict[str, np.ndarray]:
        """All outputs by name, each (N, …); the arguments are `predict`'s.

        A file of float32 input also takes preprocessed float32 (N, height, width, channels).

        Raises:
            ImageError: as `predict`; or images of several sizes whose outputs have several sizes too.
        """
        return self._run(images, batch_size, list(self._shapes))

    def _run(self, images: Any, batch_size: int, names: list[str]) -> dict[str, np.ndarray]:
        size, dtype = getattr(images, "shape", ())[1:], getattr(images, "dtype", None)
        if dtype in (np.uint8, self._dtype) and len(images) and (size == self._size or _fits(size, self._size)):
            if len(images) <= batch_size:
                return self._run_batch(images, names)
            loaded: Iterable[np.ndarray] = np.split(images, range(batch_size, len(images), batch_size))
        else:
            loaded = self._load_batches(images, batch_size)
        parts: dict[str, list[np.ndarray]] = {}
        for batch in loaded:
            for name, output in self._run_batch(batch, names).items():
                parts.setdefault(name, []).append(output)
        if not parts:
            raise ImageError("no images to predict: give one or more")
        outputs = {}
        for name, arrays in parts.items():
            try:
                outputs[name] = np.concatenate(arrays)
            except ValueError:
                raise ImageError(f"images of several sizes have {name!r} of several sizes: call for each of them") from None
        return outputs

    def run_batch(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """All outputs by name for (N, height, width, channels) of the contract's size.

        Args:
            pixels: uint8; for a file of float32 input also float32, preprocessed.
        """
        return self._run_batch(pixels, list(self._shapes))

    def _run_batch(self, pixels: np.ndarray, names: list[str]) -> dict[str, np.ndarray]:
        if self._process != os.getpid():  # forked: the threads of the session are in the other process
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.session))  # never destroyed, which would wait for them
            self.session, self._process = self._open(), os.getpid()
        try:
            with running():
                arrays = self.session.run(names, {self.contract.input.name: self.feed(pixels)})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ContractError(f"{self.path} fails on images of {pixels.shape[1:]}: {_first_line(error)}") from None
        alive()
        outputs = dict(zip(names, arrays, strict=True))
        for name, output in outputs.items():
            if not isinstance(output, np.ndarray):
                raise ContractError(f"{self.path} returns outputs that are not numeric arrays")
            shape = (len(pixels), *self._shapes[name])
            if output.shape != shape and not _fits(output.shape, shape):
                raise ContractError(f"{self.path} promises {name!r} of the shape {shape}; it answers {output.shape}")
        return outputs

    def feed(self, pixels: np.ndarray) -> np.ndarray:
        """The graph's input for images as `run_batch` takes them: preprocessed, in its layout."""
        values = pixels if pixels.dtype == self._dtype else preprocess(pixels, self.contract.preprocessing)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.contract.input.layout == "NCHW" else values)

    def _load_batches(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:
        """Images of one size each time, loaded a batch at a time."""
        if isinstance(images, str | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim != 4):
            images = [images]
        if isinstance(images, bytes | Mapping) or not isinstance(images, Iterable):
            raise ImageError(
                f"images are uint8 pixels, a file name, a Pillow image, or several of these; received {type(images).__name__}"
            )
        spec, images = self.contract.input, iter(images)
        if spec.height is not None and spec.width is not None:
            batch_size = min(batch_size, max(1, MAX_LOADED // (spec.height * spec.width * spec.channels)))
        while loaded := list(map(self.load, itertools.islice(images, batch_size))):
            # a file of open size may be given images of several sizes: consecutive images of equal size are run together
            for _, alike in itertools.groupby(loaded, key=attrgetter("shape")):
                yield np.stack(list(alike))

    def load(self, image: np.ndarray | str | Path | Image.Image) -> np.ndarray:
        """One image as the contract's uint8 (height, width, channels).

        Raises:
            ImageError: a file that is not an image, or an array of another type or shape.
        """
        spec = self.contract.input
        if isinstance(image, str | Path):
            return read_image(image, spec.height, spec.width, spec.channels, spec.resize)
        if isinstance(image, Image.Image):
            return resize_image(convert_image(image, spec.channels), spec.height, spec.width, spec.resize)
        array = np.asarray(image)
        if array.dtype != np.uint8:
            raise ImageError(
                f"images are uint8 pixels, 0–255; received an array of {array.dtype}: pass the raw pixels, scaling and normalization "
                "are done here"
            )
        if array.ndim == 2:
            array = array[:, :, None]
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
            raise ImageError(f"an image has the shape (height, width[, 1, 3 or 4]); received {np.shape(image)}")
        opened = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
        return resize_image(convert_image(opened, spec.channels), spec.height, spec.width, spec.resize)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _fits(shape: Sequence[int], promised: Sequence[int | None]) -> bool:
    """Whether a shape matches the promised one, where None means any size."""
    return len(shape) == len(promised) and all(wanted in (None, n) for n, wanted in zip(shape, promised, strict=True))


def lay_colors(small: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Apply the colors of a small image to the gray levels of a large one.

    Each channel of the small image, minus the mean over its channels, is upsampled (bilinear) and added to the channel mean of the
    large image.

    Args:
        small: uint8 (any height and width, 3).
        pixels: uint8 (height, width, 3).

    Returns:
        uint8 (height, width, 3).
    """
    height, width = pixels.shape[:2]
    gray = pixels.mean(-1, dtype=np.float32)
    tint = small.astype(np.float32) - small.mean(-1, dtype=np.float32, keepdims=True)
    result = np.empty((height, width, 3), np.uint8)
    for channel in range(3):  # one at a time: 12 megapixels of float32 take 48 MB
        large = Image.fromarray(tint[..., channel]).resize((width, height), Image.Resampling.BILINEAR)
        result[..., channel] = np.clip(np.rint(np.asarray(large) + gray), 0, 255)
    return result


def expand_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Expand folders to the images in them, and patterns such as ``photos/*.jpg`` to their matches, sorted.

    Other paths are returned unchanged.

    Raises:
        ImageError: a path does not exist, a folder contains no images, or a pattern matches nothing.
        PermissionError: a folder may not be read.
    """
    found: list[Path] = []
    suffixes = image_suffixes()
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(item for item in _files_below(path) if item.suffix.lower() in suffixes)
            if not inside:
                raise ImageError(f"no images in the folder {path}")
            found += inside
        elif path.exists():
            found.append(path)
        elif glob.has_magic(str(path)):
            names = glob.glob(str(path), recursive=True)  # noqa: PTH207 (Path.glob takes no absolute patterns)
            matched = sorted(item for item in map(Path, names) if item.is_file())
            if not matched:
                raise ImageError(f"no image matches {path}")
            found += matched
        else:
            raise ImageError(f"no such image: {path}")
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder; one that may not be read is an error, not an empty one."""

    def fail(error: OSError) -> None:
        raise error

    for place, _, names in os.walk(folder, onerror=fail):
        yield from (path for path in (Path(place, name) for name in names) if path.is_file())
