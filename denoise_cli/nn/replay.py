"""Work that a GPU is told of once.

A training step is some hundred small operations. To ask a GPU for one takes longer than many of them run, so
it waits. CUDA can record what a function asks for, and repeat all of it in answer to a single call.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import fresh_scratch


class Replayed:
    """`function(*tensors)`, recorded on a GPU at the second call with tensors of the same shapes.

    The first call may still set things up. From the second on Python does not run again: what the function
    does must depend on nothing but its arguments and what lies in memory that stays where it is, as weights
    and their gradients do. The result is valid until the next call. Elsewhere it is an ordinary call.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self._kind: tuple[object, ...] = ()
        self._recording: _Recording | None = None

    def __call__(self, *tensors: Tensor) -> Tensor:
        if any(tensor.device.type != "cuda" for tensor in tensors):
            return self.function(*tensors)
        kind = tuple((tensor.device, tensor.dtype, tensor.shape, tensor.stride()) for tensor in tensors)
        if kind != self._kind:
            self._kind, self._recording = kind, None
            return self.function(*tensors)
        if self._recording is None:
            self._recording = _Recording(self.function, tensors)
        return self._recording.replay(tensors)


class _Recording:
    """What a function asked for when it was given `tensors`, which is not done yet."""

    def __init__(self, function: Callable[..., Tensor], tensors: tuple[Tensor, ...]) -> None:
        self.inputs = [torch.empty_like(tensor) for tensor in tensors]
        self.graph = torch.cuda.CUDAGraph()
        # what other threads ask for meanwhile, such as the next batch, is none of its business
        with fresh_scratch(), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(*self.inputs)

    def replay(self, tensors: tuple[Tensor, ...]) -> Tensor:
        for place, tensor in zip(self.inputs, tensors, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        return self.output
