"""Plots are PNG files of the size of what they show, whatever they show."""

import itertools

import matplotlib
import numpy as np
import pytest
from PIL import Image

from denoise_cli import plots
from denoise_cli.plots import (
    STYLE,
    Band,
    Curve,
    Tile,
    _figure,
    _log_scale,
    draw_bands,
    draw_curves,
    draw_sheet,
)


@pytest.mark.parametrize(
    "losses",
    [
        [Curve("training", [1, 2, 3], [0.5, 0.05, 0.005]), Curve("validation", [3], [0.004])],
        [Curve("training", [1], [0.0])],
        [Curve("training", [1, 2], [1e-9, 1e3])],
        [Curve("training", [], [])],
    ],
)
def test_curves_of_any_values(tmp_path, losses):
    draw_curves(
        tmp_path / "curves.png", losses=losses, psnrs=[Curve("validation", [3], [30.0])], title="$_{x"
    )
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > image.height > 300
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("low", [1.0, 1.05, 0.0021, 3.7e-7])
@pytest.mark.parametrize("span", [2, 2.1, 5, 30, 150, 1500, 1e9, 1e30])
def test_a_log_axis_has_three_plain_numbers_at_least(low, span):
    figure = _figure(5, 4)
    with matplotlib.rc_context(STYLE):
        axes = figure.subplots()
        axes.plot([1, 2], [low, low * span])
        _log_scale(axes, [low, low * span])
        figure.canvas.draw()
    bottom, top = axes.get_ylim()
    both = zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
    shown = [
        (tick, label.get_text().replace("\N{MINUS SIGN}", "-"))
        for tick, label in both
        if bottom <= tick <= top
    ]
    assert len(shown) >= 3
    assert all(float(label) == pytest.approx(tick, rel=1e-5) for tick, label in shown)
    assert not any(label.get_text() for label in axes.get_yticklabels(minor=True))


@pytest.mark.parametrize(
    "title", ["Rates", "Rates of learning and what came of them, for every network " * 3]
)
@pytest.mark.parametrize(
    ("labels", "beside"),
    [
        (["0.5", "1", "2", "4", "8", "16"], True),
        (["SELU, LeCun start, lr 1", "ELU"], True),
        ([f"optimizer.lr {lr}, a leak of one hundredth" for lr in range(10)], False),
        (["a long label " * 20, "a short one"], False),
    ],
)
def test_nothing_lies_on_anything(tmp_path, monkeypatch, labels, beside, title):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, _: figures.append(figure))
    bands = [Band(label, [1, 2], [1, 2], [1, 2], [1, 2]) for label in labels]
    bands += [Band("none", [], [], [], [], remark=" (2 of 2 diverged)")]
    note = "line: mean of 3 seeds"
    draw_bands(tmp_path / "a.png", {"train": bands, "test": bands}, title=title, note=note, x_label="epoch")
    (figure,) = figures
    figure.canvas.draw()
    (legend,) = figure.legends
    assert legend.get_texts()[-1].get_text() == "none (2 of 2 diverged)"
    parts = [part for part in (legend, *figure.axes, *figure.texts) if part.get_visible()]
    boxes = [part.get_tightbbox().padded(-1) for part in parts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert (boxes[0].x0 > max(box.x1 for box in boxes[1:3])) == beside


def test_a_sheet_shows_every_pixel_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    rows = [
        [Tile(pixels / 255, "20 dB"), Tile(pixels[..., :1] / 255)],
        [Tile(pixels[:12] / 255 + 3, "white")],
    ]
    draw_sheet(tmp_path / "sheet.png", rows, headings=["input", "target"])
    with Image.open(tmp_path / "sheet.png") as image:
        drawn = np.asarray(image.convert("RGB"))
    scale = 192 // 32
    assert drawn.shape[1] >= 2 * 32 * scale
    enlarged = pixels.repeat(scale, 0).repeat(scale, 1)
    middle = enlarged[scale // 2 :: scale, scale // 2 :: scale]
    found = any(
        np.array_equal(drawn[y::scale, x::scale][:24, :32], middle)
        for y in range(20, 60)
        for x in range(0, 20)
    )
    assert found
