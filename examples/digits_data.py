"""The digits of `examples/data`, dealt out to devices that each hold different ones.

Real devices do not hold equal shares: some people write many sevens. `shards` imitates that with the usual Dirichlet
split.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

DATA_FILE = Path(__file__).parent / "data" / "digits.npz"
NUM_CLASSES = 10
NUM_HELD_OUT = 360
MIN_SHARD = 40
"""Least number of images of a device."""


@dataclass(frozen=True)
class Digits:
    """Images and their labels, row for row.

    Attributes:
        x: float32 [num, 64], brightness 0 to 1.
        y: int64 [num], 0 to 9.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: npt.NDArray[np.intp]) -> Digits:
        """The given rows, copied."""
        return Digits(self.x[rows], self.y[rows])

    def arrays(self, *, as_images: bool = False) -> dict[str, npt.NDArray[np.generic]]:
        """By the names that the plans ask for; ``as_images`` shapes ``x`` [num, 1, 8, 8] for the convolutional plan."""
        return {"x": self.x.reshape(-1, 1, 8, 8) if as_images else self.x, "y": self.y}

    def save(self, path: Path, *, as_images: bool = False) -> None:
        """Write the arrays as an ``.npz`` file that ``pygrid edge --data`` reads."""
        np.savez(path, allow_pickle=False, **self.arrays(as_images=as_images))


def load(path: Path = DATA_FILE) -> Digits:
    """All 1,797 digits, in the order of the original file.

    Raises:
        FileNotFoundError, ValueError: the file is not there, or is not the one described in ``data/README.md``.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            pixels, labels = file["pixels"], file["labels"]
    except (KeyError, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is not the file described in {path.parent / 'README.md'}: {error}") from error
    return Digits(pixels.astype(np.float32) / 16.0, labels.astype(np.int64))


def hold_out(digits: Digits, num: int = NUM_HELD_OUT, *, seed: int = 0) -> tuple[Digits, Digits]:
    """Split off ``num`` images that no device gets, each class in its proportion; gives (for training, held out).

    Raises:
        ValueError: ``num`` is not between 1 and the number of images less one.
    """
    if not 1 <= num < len(digits):
        raise ValueError(f"cannot hold out {num} of {len(digits)} images")
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(digits))
    by_class = shuffled[np.argsort(digits.y[shuffled], kind="stable")]
    # Evenly spaced among the rows sorted by class: each class gives its share, to within one image.
    chosen = np.zeros(len(digits), dtype=bool)
    chosen[((np.arange(num) + 0.5) * len(digits) / num).astype(int)] = True
    return digits.take(np.sort(by_class[~chosen])), digits.take(np.sort(by_class[chosen]))


def shards(
    digits: Digits, num_devices: int, *, alpha: float = 0.5, min_size: int = MIN_SHARD, seed: int = 0
) -> list[Digits]:
    """Deal the images out to ``num_devices``, skewed by label; every image goes to exactly one device.

    Each class is divided in proportions drawn from a Dirichlet distribution. A small ``alpha`` gives each device few
    classes, a large one equal shares. Devices that came out with fewer than ``min_size`` images get some of the largest
    shard.

    Raises:
        ValueError: there are not enough images for that many devices.
    Source: Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution", 2019.
    """
    if num_devices < 1 or num_devices * min_size > len(digits):
        raise ValueError(f"{len(digits)} images do not give {num_devices} devices {min_size} images each")
    rng = np.random.default_rng(seed)
    parts: list[list[int]] = [[] for _ in range(num_devices)]
    for label in range(NUM_CLASSES):
        rows = rng.permutation(np.flatnonzero(digits.y == label))
        proportions = rng.dirichlet(np.full(num_devices, alpha))
        cuts = (np.cumsum(proportions)[:-1] * len(rows)).round().astype(int)
        for part, piece in zip(parts, np.split(rows, cuts), strict=True):
            part.extend(piece.tolist())
    for part in parts:
        rng.shuffle(part)
    for part in parts:
        while len(part) < min_size:
            part.append(max(parts, key=len).pop())
    return [digits.take(np.sort(np.array(part, dtype=np.intp))) for part in parts]
