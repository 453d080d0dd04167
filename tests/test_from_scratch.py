"""The engine is written from scratch: the syntax tree of every file of the package is read for what is not.

Tensor arithmetic, views, reductions, matrix products and the functions of mathematics are the material. Not
allowed are torch.nn, torch.autograd, torch.optim, compiled code, and the layers that torch offers under other
names: `torch.conv2d`, `x.sigmoid()`, `torch.special.expit`.
"""

import ast
import re
from pathlib import Path

import pytest
import torch

import denoise_cli

PACKAGE = Path(denoise_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

OTHER_ENGINES = {
    "cupy",
    "jax",
    "keras",
    "kornia",
    "numba",
    "onnxruntime",
    "tensorflow",
    "torchvision",
    "triton",
}
ENGINES = {"ao", "autograd", "func", "functional", "masked", "nested", "nn", "optim", "quantization"}
COMPILERS = {"compile", "compiler", "export", "fx", "hub", "jit", "library", "ops", "package"}
GRADIENTS = {"enable_grad", "set_grad_enabled", "requires_grad", "requires_grad_", "grad_fn", "retain_grad"}
LAYER = re.compile(
    r"conv(?!ert)|pool\d?d?|(batch|group|instance|layer|rms|weight)_norm|native_norm|dropout|sigmoid|expit|softm|"
    r"softplus|elu|silu|mish|glu|hardtanh|hardshrink|softshrink|threshold|shuffle|embedding|lstm|gru|rnn|bilin|"
    r"_loss|kl_div|cross_entropy|attention|linear_|grid_sampler|cudnn|mkldnn|miopen|fbgemm|quantized"
)
METHODS = {name for name in dir(torch.Tensor) if LAYER.search(name)} | GRADIENTS


def is_banned(dotted: str) -> bool:
    """Whether a dotted name is a layer, a gradient, or a way to one."""
    root, *rest = dotted.split(".")
    if root != "torch" or not rest:
        return root in OTHER_ENGINES
    if rest[0] == "utils" and len(rest) > 1:
        return rest[1] != "data"
    return rest[0] in ENGINES | COMPILERS | {"*"} or any(
        part.startswith("_") or part in GRADIENTS or LAYER.search(part) for part in rest
    )


class Reader(ast.NodeVisitor):
    """Collects every use of what is not allowed, as (line, name)."""

    def __init__(self) -> None:
        self.found: set[tuple[int, str]] = set()
        self.imported: dict[str, str] = {}
        """What a name in this file stands for."""

    def judge(self, node: ast.stmt | ast.expr, dotted: str) -> None:
        if is_banned(dotted):
            self.found.add((node.lineno, dotted))

    def full_name(self, node: ast.expr) -> str:
        """The dotted name of `a.b.c` where `a` was imported, else nothing."""
        if isinstance(node, ast.Name):
            return self.imported.get(node.id, "")
        if isinstance(node, ast.Attribute) and (before := self.full_name(node.value)):
            return f"{before}.{node.attr}"
        return ""

    def visit_Import(self, node: ast.Import) -> None:
        for each in node.names:
            self.judge(node, each.name)
            root = each.name.split(".")[0]
            self.imported[each.asname or root] = each.name if each.asname else root

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for each in node.names:
            self.judge(node, f"{node.module}.{each.name}")
            self.imported[each.asname or each.name] = f"{node.module}.{each.name}"

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = self.full_name(node)
        if name.startswith("torch."):
            self.judge(node, name)
        elif node.attr in METHODS and not name:
            self.found.add((node.lineno, f".{node.attr}"))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            call = node.func.id
            on_torch = bool(node.args) and self.full_name(node.args[0]).split(".")[0] == "torch"
            if call in ("eval", "exec", "__import__") or (call in ("getattr", "vars") and on_torch):
                self.found.add((node.lineno, f"{call}()"))
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg in GRADIENTS:
            self.found.add((node.value.lineno, f"{node.arg}="))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and re.fullmatch(r"torch\.[\w.]+", node.value):
            self.judge(node, node.value)


def violations(source: str) -> list[str]:
    reader = Reader()
    reader.visit(ast.parse(source))
    return [f"{line}: {name}" for line, name in sorted(reader.found)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_file_is_from_scratch(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8")) == []


def test_all_files_are_read() -> None:
    assert {PACKAGE / "nn" / "module.py", PACKAGE / "nn" / "layers" / "containers.py"} <= set(FILES)


@pytest.mark.parametrize(
    "source",
    [
        "import torch.nn",
        "import torch.nn as nn",
        "import torch.nn.functional as F",
        "from torch import nn",
        "from torch import nn as layers",
        "from torch.nn import functional",
        "from torch.nn.functional import conv2d",
        "from torch import *",
        "from torch import relu",
        "from torch import conv2d as shifted_products",
        "from torch.autograd import Function",
        "from torch.optim import SGD",
        "from torch.utils.checkpoint import checkpoint",
        "from torch.utils import cpp_extension",
        "import torch.utils.cpp_extension",
        "import torchvision",
        "from triton import jit",
        "import torch\nclass Mine(torch.nn.Module): ...",
        "import torch\ny = torch.nn.functional.relu(x)",
        "import torch\ny = torch.conv2d(x, w)",
        "import torch as t\ny = t.conv_transpose2d(x, w)",
        "import torch\ny = torch.convolution(x, w)",
        "import torch\ny = torch.mkldnn_convolution(x, w)",
        "import torch\ny = torch.cudnn_convolution(x, w)",
        "import torch\ny = torch.batch_norm(x)",
        "import torch\ny = torch.native_layer_norm(x)",
        "import torch\ny = torch.relu(x)",
        "import torch\ny = torch.relu_(x)",
        "import torch\ny = torch.selu(x)",
        "import torch\ny = torch.sigmoid(x)",
        "import torch\ny = torch.special.expit(x)",
        "from torch import special\ny = special.expit(x)",
        "import torch\ny = torch.threshold(x, 0, 0)",
        "import torch\ny = torch.pixel_shuffle(x, 2)",
        "import torch\ny = torch.max_pool2d(x, 2)",
        "import torch\ny = torch.dropout(x, 0.5, True)",
        "import torch\ny = torch._C._nn.gelu(x)",
        "import torch\ny = torch.ops.aten.threshold_backward(dy, y, 0)",
        "import torch\ny = torch._foreach_sigmoid([x])",
        "import torch\nf = torch.compile(f)",
        "import torch\nf = torch.jit.script(f)",
        "import torch\ng = torch.func.grad(f)",
        "import torch\ny = torch.functional.F.relu(x)",
        "import torch\ntorch.set_grad_enabled(True)",
        "import torch\nx = torch.zeros(3, requires_grad=True)",
        "x.requires_grad = True",
        "x.requires_grad_()",
        "y = x.sigmoid()",
        "y = x.relu_()",
        "y = (x + 1).softmax(1)",
        "from torch import Tensor\ny = Tensor.sigmoid(x)",
        "import torch\ny = getattr(torch, 'relu')(x)",
        "import torch\nf = vars(torch)['relu']",
        "from importlib import import_module\nnn = import_module('torch.nn')",
        "nn = __import__('torch').nn",
        "exec('import torch.nn')",
    ],
)
def test_a_planted_violation_is_found(source: str) -> None:
    assert violations(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ny = torch.addmm(b, x, w).tanh_().clamp_min_(0)",
        "import torch\ny = torch.linalg.vector_norm(torch.erf(x).exp_(), dim=0)",
        "import torch\ny = x.contiguous(memory_format=torch.channels_last).unfold(2, 3, 1)",
        "import torch\nimport torch.distributed\nfrom torch.utils.data import DataLoader\ny = torch.inf",
        "import torch\nwith torch.inference_mode():\n    y = torch.rsqrt(x)",
        "from denoise_cli.nn.layers import activations\nactivations.relu",
        '"""What torch.nn does, without torch.nn."""',
        "loss.backward()\nparameter.grad.zero_()\nlayers = LAYERS['sigmoid']",
    ],
)
def test_the_material_is_allowed(source: str) -> None:
    assert violations(source) == []


def test_every_layer_that_torch_offers_twice_is_known() -> None:
    """What torch.nn.functional has, and torch or its tensors too, is a layer - but for a few."""
    not_layers = {"Tensor", "tanh", "unfold", "cosine_similarity", "pairwise_distance", "pdist"}
    functional = {name for name in dir(torch.nn.functional) if callable(getattr(torch.nn.functional, name))}
    twice = functional & {*dir(torch), *dir(torch.Tensor)} - not_layers
    public = {name for name in twice if not name.startswith("_")}
    assert "conv2d" in public
    assert {name for name in public if not LAYER.search(name)} == set()
