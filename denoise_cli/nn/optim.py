"""Optimizers: theta changed in place by its gradient g, with the update rules of torch.optim.

    optimizer = SGD(net.param(), lr=0.1)
    optimizer.zero_grad()
    ... net.backward(loss.backward())
    optimizer.step()

`lr` may be set between steps, as schedules do. Moving a net with `Module.to` makes new tensors: make the
optimizer after it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from denoise_cli.nn.kernels.chunks import local_workspace

Parameters = Sequence[tuple[Tensor, Tensor]]


class Optimizer:
    """The (value, gradient) pairs of a net, and what is remembered of each between steps: its moments."""

    yaml_name: ClassVar[str] = ""

    def __init__(
        self, parameters: Parameters, lr: float, weight_decay: float, moments: Sequence[str] = ()
    ) -> None:
        if lr < 0 or weight_decay < 0:
            raise ValueError(f"lr and weight_decay must not be negative, got {lr} and {weight_decay}")
        self.parameters = parameters
        self.lr = lr
        self.weight_decay = weight_decay
        self.steps = 0
        self._moments = {name: [torch.zeros_like(value) for value, _ in parameters] for name in moments}

    def step(self) -> None:
        """Moves every parameter once."""
        self.steps += 1
        for value, grad, moments in self._each():
            self.update(value, grad, *moments)

    def _each(self) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
        """Every parameter, its gradient and its moments."""
        moments = zip(*self._moments.values(), strict=True) if self._moments else [()] * len(self.parameters)
        for (value, grad), own in zip(self.parameters, moments, strict=True):
            yield value, grad, own

    def update(self, value: Tensor, grad: Tensor, *moments: Tensor) -> None:
        """Moves one parameter and its moments in place, and leaves its gradient as it is."""
        raise NotImplementedError(type(self).__name__)

    def zero_grad(self) -> None:
        """Sets every gradient to zero, in place."""
        for _, grad in self.parameters:
            grad.zero_()

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on besides parameters and settings: the tensors, not copies."""
        state = {
            f"{name}.{index}": moment
            for name, moments in self._moments.items()
            for index, moment in enumerate(moments)
        }
        return state | {"steps": torch.tensor(self.steps)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copies a `state` into this one. Raises ValueError where it is that of another optimizer or net."""
        own = self.state()
        for name, tensor in own.items():
            if name not in state or state[name].shape != tensor.shape:
                raise ValueError(
                    f"the optimizer's state does not fit: {name!r} is missing or of another shape"
                )
        if unknown := sorted(state.keys() - own.keys()):
            raise ValueError(f"the optimizer's state does not fit: {unknown[0]!r} is unknown")
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.steps = int(state["steps"])


class SGD(Optimizer):
    """Gradient descent: theta <- theta - lr * g.

    With weight decay, g + weight_decay * theta takes the place of g. With momentum, v <- momentum * v + g
    takes its place, and with Nesterov's, g + momentum * v.
    """

    yaml_name = "sgd"

    def __init__(
        self,
        parameters: Parameters,
        *,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        if momentum < 0 or (nesterov and momentum == 0):
            raise ValueError(f"momentum must not be negative, and not 0 with nesterov, got {momentum}")
        self.momentum = momentum
        self.nesterov = nesterov
        super().__init__(parameters, lr, weight_decay, ("velocity",) if momentum else ())

    def update(self, value: Tensor, grad: Tensor, *moments: Tensor) -> None:
        if self.weight_decay:
            grad = torch.add(grad, value, alpha=self.weight_decay)
        for velocity in moments:
            velocity.mul_(self.momentum).add_(grad)
            grad = torch.add(grad, velocity, alpha=self.momentum) if self.nesterov else velocity
        value.add_(grad, alpha=-self.lr)


class Adam(Optimizer):
    """Steps of about lr in every coordinate, whatever the size of its gradient (arXiv:1412.6980).

    m <- beta_1 m + (1 - beta_1) g and v <- beta_2 v + (1 - beta_2) g^2 begin at zero; divided by 1 - beta^t
    they are means. theta <- theta - lr * m / (sqrt(v) + eps), both divided so.

    With weight decay, g + weight_decay * theta takes the place of g.
    """

    yaml_name = "adam"

    def __init__(
        self,
        parameters: Parameters,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, lr, weight_decay, ("mean", "square"))
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        self.betas = betas
        self.eps = eps

    def update(self, value: Tensor, grad: Tensor, *moments: Tensor) -> None:
        if self.weight_decay:
            grad = torch.add(grad, value, alpha=self.weight_decay)
        self._move(value, grad, *moments)

    def _move(self, value: Tensor, grad: Tensor, mean: Tensor, square: Tensor) -> None:
        beta_1, beta_2 = self.betas
        mean.lerp_(grad, 1 - beta_1)
        square.mul_(beta_2).addcmul_(grad, grad, value=1 - beta_2)
        std = local_workspace(__name__).empty("std", tuple(square.shape), square)
        torch.sqrt(square, out=std).div_(math.sqrt(1 - beta_2**self.steps)).add_(self.eps)
        value.addcdiv_(mean, std, value=-self.lr / (1 - beta_1**self.steps))


class AdamW(Adam):
    """Adam with weight decay apart from the gradient (arXiv:1711.05101).

    Before each step, theta <- (1 - lr * weight_decay) * theta.
    """

    yaml_name = "adamw"

    def __init__(
        self,
        parameters: Parameters,
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def update(self, value: Tensor, grad: Tensor, *moments: Tensor) -> None:
        value.mul_(1 - self.lr * self.weight_decay)
        self._move(value, grad, *moments)


class Muon(AdamW):
    """Steps of equal size along every singular direction of a weight (Jordan et al., Muon, 2024).

    For matrices, and kernels of convolutions taken as matrices of (first dimension, all others):
    m <- momentum m + (1 - momentum) g, then theta <- (1 - lr weight_decay) theta - 0.2 lr sqrt(n) O, with n
    the longer side and O what `orthogonalised` makes of momentum m + (1 - momentum) g. The factor makes steps
    of the size of AdamW's, so that its rates serve (arXiv:2502.16982).

    Vectors, such as biases, take AdamW's steps: betas and eps are for them.
    """

    yaml_name = "muon"

    def __init__(
        self,
        parameters: Parameters,
        *,
        lr: float = 1e-3,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        self.momentum = momentum

    def step(self) -> None:
        """Moves every parameter once, matrices of one shape together: a call costs more than they do."""
        self.steps += 1
        alike: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
        for value, grad, moments in self._each():
            if value.ndim < 2:
                self.update(value, grad, *moments)
                continue
            mean = moments[0].lerp_(grad, 1 - self.momentum)
            direction = grad.lerp(mean, self.momentum).flatten(1)
            alike.setdefault(direction.shape, []).append((value, direction))
        for shape, pairs in alike.items():
            rate = 0.2 * self.lr * math.sqrt(max(shape))
            moves = orthogonalised(torch.stack([direction for _, direction in pairs]))
            for (value, _), move in zip(pairs, moves, strict=True):
                value.mul_(1 - self.lr * self.weight_decay)
                value.add_(move.reshape_as(value), alpha=-rate)


def orthogonalised(matrices: Tensor) -> Tensor:
    """U p(S) V^T of each matrix U S V^T of a stack, (n, rows, columns), with p(S) between 0.7 and 1.2 but for
    the smallest singular values.

    Five rounds of X <- (a + b G + c G^2) X with G = X X^T, begun at Frobenius norm 1. G is far smaller than X
    where X is wide, so the factors of all rounds are multiplied first, and X by their product once.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    wide: Tensor = matrices.mT if tall else matrices
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=1e-7)
    gram = wide @ wide.mT
    product = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    for _ in range(5):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor @ product
        gram = factor @ gram @ factor
    wide = product @ wide
    return wide.mT if tall else wide


OPTIMIZERS: dict[str, type[Optimizer]] = {cls.yaml_name: cls for cls in (SGD, Adam, AdamW, Muon)}
