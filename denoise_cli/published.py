"""PSNR of well-known denoisers on the benchmark sets, as published: what `denoise eval` sets beside its own.

Gaussian noise that is not clipped, output rounded to 8 bits, mean over the pictures: the protocol of
`evaluation`, but for the noise itself, of which every paper drew its own. The older methods' figures are
those that the later papers compare themselves with. On colour sets, BM3D is its colour version, CBM3D.
"""

from dataclasses import dataclass

SIGMAS = (15, 25, 50)
SETS = ("cbsd68", "kodak24", "mcmaster", "set12", "bsd68")


@dataclass(frozen=True)
class Method:
    """A denoiser, the paper that describes it, and its PSNR at each of SIGMAS by set."""

    name: str
    paper: str
    psnr: dict[str, tuple[float, float, float]]


METHODS = (
    Method(
        "BM3D",
        "Dabov et al., TIP 2007",
        {
            "cbsd68": (33.52, 30.71, 27.38),
            "kodak24": (34.28, 31.68, 28.46),
            "mcmaster": (34.06, 31.66, 28.51),
            "set12": (32.37, 29.97, 26.72),
            "bsd68": (31.08, 28.57, 25.60),
        },
    ),
    Method(
        "DnCNN",
        "Zhang et al., TIP 2017",
        {
            "cbsd68": (33.90, 31.24, 27.95),
            "kodak24": (34.60, 32.14, 28.95),
            "mcmaster": (33.45, 31.52, 28.62),
            "set12": (32.86, 30.44, 27.18),
            "bsd68": (31.73, 29.23, 26.23),
        },
    ),
    Method(
        "IRCNN",
        "Zhang et al., CVPR 2017",
        {
            "cbsd68": (33.86, 31.16, 27.86),
            "kodak24": (34.69, 32.18, 28.93),
            "mcmaster": (34.58, 32.18, 28.91),
        },
    ),
    Method(
        "FFDNet",
        "Zhang et al., TIP 2018",
        {
            "cbsd68": (33.87, 31.21, 27.96),
            "kodak24": (34.63, 32.13, 28.98),
            "mcmaster": (34.66, 32.35, 29.18),
            "set12": (32.75, 30.43, 27.32),
            "bsd68": (31.63, 29.19, 26.29),
        },
    ),
    Method(
        "DRUNet",
        "Zhang et al., TPAMI 2021",
        {
            "cbsd68": (34.30, 31.69, 28.51),
            "kodak24": (35.31, 32.89, 29.86),
            "mcmaster": (35.40, 33.14, 30.08),
            "set12": (33.25, 30.94, 27.90),
            "bsd68": (31.91, 29.48, 26.59),
        },
    ),
    Method(
        "SCUNet",
        "Zhang et al., MIR 2023",
        {
            "cbsd68": (34.40, 31.79, 28.61),
            "kodak24": (35.34, 32.92, 29.87),
            "mcmaster": (35.60, 33.34, 30.29),
        },
    ),
    Method(
        "Restormer",
        "Zamir et al., CVPR 2022",
        {
            "cbsd68": (34.40, 31.79, 28.60),
            "kodak24": (35.47, 33.04, 30.01),
            "mcmaster": (35.61, 33.34, 30.30),
        },
    ),
    Method(
        "GRL-T",
        "Li et al., CVPR 2023",
        {
            "cbsd68": (34.30, 31.66, 28.45),
            "kodak24": (35.24, 32.78, 29.67),
            "mcmaster": (35.49, 33.18, 30.06),
        },
    ),
)


def published(name: str, sigmas: list[float]) -> list[tuple[Method, list[float | None]]]:
    """The methods measured on the set of that name, and their PSNR at each sigma, None where not published.

    Nothing for another set, or where no sigma is one of SIGMAS.
    """
    key = name.lower().replace("-", "").replace("_", "")
    if key not in SETS or not set(sigmas) & set(SIGMAS):
        return []
    rows = []
    for method in METHODS:
        if figures := method.psnr.get(key):
            by_sigma = dict(zip(SIGMAS, figures, strict=True))
            rows.append((method, [by_sigma.get(int(s)) if s == int(s) else None for s in sigmas]))
    return rows
