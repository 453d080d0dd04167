"""One network trained twice: by this engine, and by torch.nn with autograd.

    python -m tests.benchmarks.twins --train-data FILE --val-data FILE [--dtype float32] [--epochs 25]

Both begin with the same weights and see the same batches of configs/report/transpose.yaml, or of another
config with SGD and MSE. Prints the mean training loss of every epoch and the loss on the validation pictures.

A learning rate of 4 makes much of a last digit: in float32 the two part after some dozen steps, as two runs
of torch.nn with another order of sums would, and only what they reach on the whole can be compared. In
float64 the rounding is too small for that.
"""

import argparse

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from denoise_cli.config import load_config
from denoise_cli.data.opening import open_batches, open_validation
from tests.nn.oracle import channels_last, step_both, twin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--config", default="configs/report/transpose.yaml")
    parser.add_argument("--train-data", required=True)
    parser.add_argument("--val-data", required=True)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float64")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    files = [f"data.train.path={args.train_data}", f"data.validation.path={args.val_data}"]
    experiment = load_config(args.config, files)
    dtype = getattr(torch, args.dtype)

    net = experiment.build_model().to(dtype=dtype)
    oracle = twin(experiment.model).to(dtype=dtype, memory_format=torch.channels_last)
    oracle.load_state_dict({name: tensor.clone() for name, tensor in net.state().items()})
    net.skip_input_gradient()
    ours = net, experiment.build_loss(), experiment.build_optimizer(net.param())
    sgd = torch.optim.SGD(oracle.parameters(), lr=experiment.optimizer.arguments["lr"])
    theirs = oracle, nn.MSELoss(), sgd

    table = Table("epoch", "ours", "torch.nn", "difference", title=f"mean training loss, {args.dtype}")
    batches = open_batches(experiment.data, channels=experiment.input.channels, seed=experiment.seed)
    losses, epoch = [], batches.steps_per_epoch
    for number, batch in enumerate(batches.prefetch(0, args.epochs * epoch), 1):
        x, target = (channels_last(pictures.to(dtype)) for pictures in (batch.x, batch.target))
        losses.append(torch.stack(step_both(ours, theirs, x, target)))
        if number % epoch == 0:
            table.add_row(str(number // epoch), *_compared(torch.stack(losses[-epoch:]).mean(0)))
    pairs = open_validation(experiment.data, channels=experiment.input.channels)
    noisy, clean = (torch.stack(pictures).to(dtype) for pictures in list(zip(*pairs, strict=True))[:2])
    with torch.inference_mode():
        results = net.train(False).forward(channels_last(noisy)), oracle(noisy)
    table.add_section()
    table.add_row("validation", *_compared(torch.stack([(y - clean).square().mean() for y in results])))
    Console().print(table)


def _compared(losses: Tensor) -> tuple[str, str, str]:
    ours, theirs = losses.tolist()
    return f"{ours:.6f}", f"{theirs:.6f}", f"{ours / theirs - 1:+.3%}"


if __name__ == "__main__":
    main()
