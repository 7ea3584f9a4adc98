"""SDK for devices: take part in the training of a hosted model, with data that stays on the device.

    from pygrid.edge import participate

    participate("https://domain.example", "digits", {"x": images, "y": labels})

`EdgeClient` offers the same in single steps. To stay small, it imports no PyTorch, no onnx and no server code.
"""

from pygrid.edge.cache import Cache, DiskCache, MemoryCache, default_cache_dir
from pygrid.edge.client import EdgeClient
from pygrid.edge.data import load_data
from pygrid.edge.participation import Callbacks, Participation, participate
from pygrid.edge.settings import TrainingSettings
from pygrid.edge.speed import Speed
from pygrid.tensors.params import Difference

__all__ = [
    "Cache",
    "Callbacks",
    "Difference",
    "DiskCache",
    "EdgeClient",
    "MemoryCache",
    "Participation",
    "Speed",
    "TrainingSettings",
    "default_cache_dir",
    "load_data",
    "participate",
]
