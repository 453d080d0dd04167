"""Parts: every pixel belongs to exactly one part of one chunk, and parts that are done at once are alike."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from denoise_cli.nn import blocks
from denoise_cli.nn.kernels.parts import Parts, in_parts, most_parts

sizes = st.integers(1, 7)


@given(
    pictures=sizes,
    rows=st.integers(1, 20),
    values=st.integers(2**16, 2**20),
    count=st.integers(1, 4),
    height=st.integers(1, 3),
    cut=st.integers(0, 2),
)
def test_pieces_cover_every_pixel_once(
    pictures: int, rows: int, values: int, count: int, height: int, cut: int
) -> None:
    """`cut` pixels are missing in the last row, as where tiles end beyond the picture."""
    seen = torch.zeros(pictures, rows * height - min(cut, height - 1), 2, 3)
    chunks = in_parts(pictures, rows, values, seen, count)
    assert most_parts(chunks) <= count
    for parts in chunks:
        for which, piece in parts.pieces(seen, height):
            assert piece.shape[0] == which.stop - which.start <= parts.count
            piece.add_(1)
    assert torch.equal(seen, torch.ones_like(seen))


@given(pictures=st.integers(1, 4), rows=sizes, count=st.integers(1, 4))
def test_a_part_knows_its_pictures_and_rows(pictures: int, rows: int, count: int) -> None:
    numbered = torch.arange(pictures * rows, dtype=torch.float32).view(pictures, rows, 1, 1)
    for parts in in_parts(pictures, rows, 2**18, numbered, count):
        whole = parts.whole(numbered)
        for which, piece in parts.pieces(numbered, 1):
            for place, j in enumerate(range(which.start, which.stop)):
                first = parts.row(j)
                assert torch.equal(piece[place], whole[j, :, first : first + piece.shape[2]])


def test_pictures_are_shared_out_as_operations_on_all_of_them_are() -> None:
    parts: Parts
    for parts in in_parts(8, 5, 2**17, torch.zeros(8, 5, 1, 1), 2):
        assert (parts.count, parts.picture_step, parts.row_step) == (2, 4, 0)
        assert parts.first_picture + parts.pictures <= 4


@given(size=st.integers(1, 200_000), threads=st.integers(1, 3))
def test_blocks_of_elements_cover_all_of_them_once(size: int, threads: int) -> None:
    seen, source = torch.zeros(size), torch.arange(size, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for target, values in blocks.elements(seen, source):
            target.add_(values)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(seen, source)
