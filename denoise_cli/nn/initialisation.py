"""How weights start, by name. `fan_in` is the number of inputs that one output sums over.

| name    | weight                                     | bias                  |
|---------|--------------------------------------------|-----------------------|
| `torch` | uniform in +-1 / sqrt(fan_in)              | the same              |
| `he`    | normal, std sqrt(2 / fan_in)               | zeros                 |
| `lecun` | normal, std sqrt(1 / fan_in)               | zeros                 |
| `zeros` | zeros                                      | zeros                 |

`torch` is torch.nn's default, "Kaiming uniform with a = sqrt 5". `he` keeps the variance through ReLU (He et
al., arXiv:1502.01852), `lecun` through linear layers and SELU (arXiv:1706.02515). `zeros` makes a layer say
nothing at first: the last one of a residual body, which then starts as the identity.
"""

import math
from typing import Literal

from torch import Tensor

Initialisation = Literal["torch", "he", "lecun", "zeros"]


def initialise(name: Initialisation, weight: Tensor, bias: Tensor | None = None) -> None:
    """Fills `weight`, then `bias`, in place; `torch.manual_seed` governs the numbers.

    fan_in is the size of `weight[0]`, as torch.nn counts it.
    """
    fan_in = weight.shape[1:].numel()
    if name == "torch":
        kaiming_uniform(weight, fan_in)
        if bias is not None:
            kaiming_uniform(bias, fan_in)
        return
    if name == "he":
        he_normal(weight, fan_in)
    elif name == "lecun":
        lecun_normal(weight, fan_in)
    else:
        weight.zero_()
    if bias is not None:
        bias.zero_()


def kaiming_uniform(tensor: Tensor, fan_in: int) -> None:
    """U(-b, b), b = sqrt(3) * gain / sqrt(fan_in) = 1 / sqrt(fan_in), as gain^2 = 2 / (1 + a^2) = 1/3."""
    bound = 1 / math.sqrt(fan_in)
    tensor.uniform_(-bound, bound)


def he_normal(tensor: Tensor, fan_in: int) -> None:
    """N(0, 2 / fan_in)."""
    tensor.normal_(0, math.sqrt(2 / fan_in))


def lecun_normal(tensor: Tensor, fan_in: int) -> None:
    """N(0, 1 / fan_in)."""
    tensor.normal_(0, math.sqrt(1 / fan_in))
