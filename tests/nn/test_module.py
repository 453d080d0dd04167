"""What modules say of themselves."""

from fractions import Fraction

from denoise_cli.nn import Reach


def test_reach_of_fractional_steps() -> None:
    """Twice as large, then every third: two outputs for three inputs, so the pattern repeats every 3."""
    reach = Reach().then(stride=Fraction(1, 2)).then(stride=3)
    assert reach.step == Fraction(3, 2)
    assert reach.period == 3
