"""`denoise noise`: test pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from denoise_cli.data.noise import Noise
    from denoise_cli.images import Picture


def noise(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture.", show_default=False)],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The noisy picture to write.", show_default=False)
    ],
    sigma: Annotated[
        float | None,
        typer.Option(help="Strength on the 0-255 scale, short for --set sigma=.", show_default=False),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="gaussian, correlated, poisson, poisson_gaussian, speckle, salt_pepper, jpeg, subsample,"
            " camera or photo.",
        ),
    ] = "gaussian",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the noise, like peak=30; may be repeated."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Other seeds give other noise.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
) -> None:
    """Add noise to a picture.

    The result is clipped and rounded to what the file's samples can hold. The strength that was added, before
    that, is told on stderr.
    """
    import numpy as np

    from denoise_cli.cli.console import messages
    from denoise_cli.cli.plan import refuse_same_file
    from denoise_cli.images import read_pages, write_pages

    refuse_same_file(source, target)
    added = _build(model, [*(settings or []), *([] if sigma is None else [f"sigma={sigma}"])])
    generator = np.random.default_rng(seed)
    noisy, strengths = zip(*(_add(added, page, generator) for page in read_pages(source)), strict=True)
    notes = write_pages(list(noisy), target, force=force)
    for note in notes:
        messages().print(f"{target}: {note}", markup=False, soft_wrap=True)
    told = ", ".join(f"{strength:.1f}" for strength in strengths)
    messages().print(f"{target}: {model} noise, sigma {told}", markup=False, soft_wrap=True)


def _build(model: str, settings: list[str]) -> "Noise":
    """The noise model of that name. Raises UsageError for an unknown name or setting."""
    from denoise_cli import strict_yaml
    from denoise_cli.data.noise import NOISES
    from denoise_cli.errors import UsageError
    from denoise_cli.nn.arguments import SpecError, unknown
    from denoise_cli.nn.build import construct

    if model not in NOISES:
        raise UsageError(f"--model: {unknown('noise', model, NOISES)}")
    arguments: dict[str, object] = {}
    for setting in settings:
        arguments = strict_yaml.override(arguments, setting, {})
    try:
        return construct(NOISES[model], arguments, model)
    except SpecError as error:
        raise UsageError(str(error)) from error


def _add(noise: "Noise", picture: "Picture", generator: "np.random.Generator") -> "tuple[Picture, float]":
    """The noisy picture, and the sigma of its noise."""
    from denoise_cli.errors import UsageError
    from denoise_cli.images import to_pixels, to_tensor

    if min(picture.height, picture.width) < noise.scale:
        raise UsageError(f"this noise needs a picture of at least {noise.scale} x {noise.scale} pixels")
    noisy, sigma = noise(to_tensor(picture.pixels), generator)
    if noise.scale == 1:
        return picture.replace_pixels(to_pixels(noisy)), sigma
    return _smaller(picture, to_pixels(noisy)), sigma


def _smaller(picture: "Picture", pixels: "NDArray[np.float32]") -> "Picture":
    """Pixels of another size with all that describes the picture; its notes tell what does not fit them."""
    from dataclasses import replace

    from denoise_cli.images import Picture

    keep, result = picture.keep, Picture.from_pixels(pixels, bits=picture.bits)
    inks = picture.color == "cmyk"  # their profile does not describe what they print
    lost = ["transparency"] * (picture.alpha != "none") + ["further channels"] * bool(picture.extra)
    lost += ["the ICC profile"] * (inks and keep.icc is not None) + list(keep.bound)
    notes = (*keep.notes, *(f"written without {name}" for name in lost))
    icc = None if inks else keep.icc
    return replace(result, keep=replace(keep, icc=icc, native=None, bound=(), original=None, notes=notes))
