"""`denoise models`: what comes with the package."""

from typing import TYPE_CHECKING, Any

from denoise_cli.cli.options import AsJson

if TYPE_CHECKING:
    from denoise_cli.denoiser import Denoiser


NUMBERS = ("parameters", "MACs per pixel")


def models(as_json: AsJson = False) -> None:
    """List the models that come with denoise."""
    from denoise_cli.checkpoint import load_model, shipped_models
    from denoise_cli.cli.check import shorten
    from denoise_cli.cli.console import messages, new_table, print_json, results

    rows = [_describe(load_model(name)) for name in shipped_models()]
    if as_json:
        print_json(rows)
        return
    if not rows:
        messages().print("no models come with this installation: denoise train makes one")
        return
    console = results()
    table = new_table(
        "model", "pictures", "noise", "parameters", "MACs per pixel", "PSNR (dB)", numbers=NUMBERS
    )
    for row in rows:
        table.add_row(
            f"[bold]{row['name']}[/bold]",
            "colour" if row["channels"] == 3 else "gray",
            _noise(row["noise"]),
            f"{row['parameters']:,}",
            shorten(row["macs_per_pixel"]),
            "\n".join(_score(name, psnr) for name, psnr in row["scores"].items()),
        )
    console.print(table)


def _noise(noise: dict[str, Any]) -> str:
    """`gaussian, sigma 0-50`"""
    arguments = [
        f"{name} {'-'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in noise.items()
        if name != "name"
    ]
    return ", ".join([noise["name"], *arguments])


def _score(data: str, psnr: dict[str, float]) -> str:
    """`cbsd68: 33.90 / 31.24 / 27.96 at sigma 15 / 25 / 50`"""
    return f"{data}: {' / '.join(f'{value:.2f}' for value in psnr.values())} at sigma {' / '.join(psnr)}"


def _describe(denoiser: "Denoiser") -> dict[str, Any]:
    side = 16 * denoiser.reach.period
    planes = denoiser.channels + denoiser.noise_level
    noise = denoiser.meta["noise"]
    return {
        "name": denoiser.meta["name"],
        "channels": denoiser.channels,
        "noise": noise,
        "noise_level": denoiser.noise_level,
        "parameters": sum(value.numel() for value, _ in denoiser.net.param()),
        "macs_per_pixel": denoiser.net.macs((1, planes, side, side)) / side**2,
        "scores": denoiser.meta.get("scores", {}),  # {set: {sigma: PSNR}}
    }
