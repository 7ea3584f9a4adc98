"""One graph whose outputs depend only on its input bytes: the same bits for the same bytes, whatever ran before.

A kernel can add numbers in another order if its input lies at another address, or if a batch has another size. Then the
last bit of the result differs. Here nothing of this kind varies between two runs:

- every input and output lies in a buffer of its own at a fixed address, and each input at a multiple of 64 bytes;
- there is one thread, and no memory pattern or arena whose size depends on earlier runs; ONNX Runtime aligns
  intermediate values to 64 bytes;
- runs with the same number of rows use the same shapes.

Assumption: a kernel of ONNX Runtime computes a function of the bytes of its inputs, their shapes and their alignment.
``tests/unit/compute/runtime/test_exact_operators.py`` looks for violations, for each operator of plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pygrid.plans.manifest import Port
from pygrid.plans.sessions import ORT_ERRORS, load, quiet_run, quiet_session, run_failed
from pygrid.tensors.aligned import aligned_zeros, unmap_freed_blocks

Array = npt.NDArray[Any]

_FAILURES: tuple[type[Exception], ...] = (MemoryError, *ORT_ERRORS)


class ExactSession:
    """One graph with bound inputs and outputs. Not for use by two threads at once.

    Args:
        graph: ONNX bytes.
        inputs: ports of the graph; a symbolic dimension, which only the first can be, is the number of rows.
        outputs: the wanted outputs, and the buffers that `run` writes them to; their shapes are fixed.
        max_rows: the largest number of rows.
        carried: an input and an output of equal shape, for a value that passes from run to run: `carry` makes the
            output of the last run the input of the next one.
    Raises:
        InvalidPlan: ONNX Runtime refuses the graph (``plan_load_failed``).
    """

    def __init__(
        self,
        graph: bytes,
        *,
        name: str,
        inputs: Sequence[Port],
        outputs: Mapping[str, Array],
        max_rows: int = 1,
        carried: tuple[str, str, Array] | None = None,
    ) -> None:
        options = quiet_session()
        options.enable_mem_pattern = False
        if max_rows > 1:
            # An arena keeps memory by the sizes of earlier runs, which would decide whether a larger run finds enough.
            options.enable_cpu_mem_arena = False
            unmap_freed_blocks()
        self._name = name
        self._session = load(graph, options, name=name)
        self._rowwise = {port.name for port in inputs if port.shape and isinstance(port.shape[0], str)}
        self.inputs: Mapping[str, Array] = {
            port.name: aligned_zeros(
                tuple(max_rows if isinstance(size, str) else size for size in port.shape), port.dtype
            )
            for port in inputs
        }
        """The buffer of each input: ``[max_rows, ...]`` or the fixed shape. Write to them before `run`."""
        self._outputs = outputs
        self._carried = carried
        self._pair = [] if carried is None else [carried[2], aligned_zeros(carried[2].shape, carried[2].dtype)]
        self._bindings: dict[tuple[int, bool], Any] = {}
        self._is_swapped = False

    @property
    def carried(self) -> Array:
        """The carried value that the next run takes."""
        return self._pair[self._is_swapped]

    def carry(self) -> None:
        """Make the carried output of the last run the input of the next one."""
        self._is_swapped = not self._is_swapped

    def run(self, num_rows: int = 1, options: Any = None) -> None:
        """Compute the outputs from the first ``num_rows`` rows of `inputs`.

        Raises:
            InvalidPlan: the graph failed on these inputs, or was ended (``plan_run_failed``). The outputs are
                undefined, and the carried value is unchanged.
        """
        binding = self._bindings.get((num_rows, self._is_swapped)) or self._bind(num_rows)
        try:
            self._session.run_with_iobinding(binding, options or quiet_run())
        except _FAILURES as error:
            raise run_failed(self._name, error) from error

    def _bind(self, num_rows: int) -> Any:
        binding = self._session.io_binding()
        known = {one.name for one in self._session.get_inputs()}
        inputs = {
            name: buffer[:num_rows] if name in self._rowwise else buffer
            for name, buffer in self.inputs.items()
            if name in known  # ONNX Runtime drops an input that nothing reads
        }
        outputs = dict(self._outputs)
        if self._carried is not None:
            inputs[self._carried[0]] = self._pair[self._is_swapped]
            outputs[self._carried[1]] = self._pair[not self._is_swapped]
        for name, buffer in inputs.items():
            binding.bind_input(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
        for name, buffer in outputs.items():
            binding.bind_output(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
        self._bindings[num_rows, self._is_swapped] = binding
        return binding


def flat_outputs(ports: Sequence[Port]) -> tuple[Array, dict[str, Array]]:
    """One flat buffer for float32 outputs of fixed shapes, one after the other; and the part of each, in its shape."""
    shapes = [tuple(int(size) for size in port.shape) for port in ports]
    sizes = [int(np.prod(shape, dtype=np.int64)) for shape in shapes]
    buffer = aligned_zeros((sum(sizes),), np.float32)
    ends = np.cumsum(sizes)
    return buffer, {
        port.name: buffer[end - size : end].reshape(shape)
        for port, shape, size, end in zip(ports, shapes, sizes, ends, strict=True)
    }
