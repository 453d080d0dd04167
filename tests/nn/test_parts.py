"""Parts: every pixel belongs to exactly one part of one chunk, and parts that are done at once are alike."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from denoise_cli.nn import blocks
from denoise_cli.nn.kernels.chunks import chunk_size
from denoise_cli.nn.kernels.parts import Parts, in_parts

sizes = st.integers(1, 7)


@given(
    pictures=sizes,
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    values=st.integers(2**12, 2**18),
    count=st.integers(1, 4),
    side=st.integers(1, 3),
    cut=st.integers(0, 2),
)
def test_pieces_cover_every_pixel_once(
    pictures: int, rows: int, columns: int, values: int, count: int, side: int, cut: int
) -> None:
    """`cut` pixels are missing in the last row and column, as where tiles end beyond the picture."""
    missing = min(cut, side - 1)
    seen = torch.zeros(pictures, rows * side - missing, columns * side - missing, 3)
    chunks = in_parts(pictures, rows, columns, values, seen, count)
    for parts in chunks:
        assert parts.count <= count
        for which, piece in parts.pieces(seen, side):
            assert piece.shape[0] == which.stop - which.start <= parts.count
            piece.add_(1)
    assert torch.equal(seen, torch.ones_like(seen))


@given(pictures=st.integers(1, 4), columns=st.integers(1, 20), count=st.integers(1, 4))
def test_a_part_knows_its_pictures_and_columns(pictures: int, columns: int, count: int) -> None:
    numbered = torch.arange(pictures * columns, dtype=torch.float32).view(pictures, 1, columns, 1)
    for parts in in_parts(pictures, 1, columns, 2**18, numbered, count):
        whole = parts.whole(numbered)
        for which, piece in parts.pieces(numbered, 1):
            for place, j in enumerate(range(which.start, which.stop)):
                first = parts.column(j)
                assert torch.equal(piece[place], whole[j, :, :, first : first + piece.shape[3]])


def test_pictures_are_shared_out_as_operations_on_all_of_them_are() -> None:
    parts: Parts
    for parts in in_parts(8, 5, 5, 2**15, torch.zeros(8, 5, 5, 1), 2):
        assert (parts.count, parts.picture_step, parts.column_step) == (2, 4, 0)
        assert parts.first_picture + parts.pictures <= 4


def test_chunks_of_one_wide_picture_are_small_in_both_directions() -> None:
    values, like = 4096, torch.zeros(1, 200, 900, 1)
    for parts in in_parts(1, 200, 900, values, like, 2):
        assert parts.count * parts.rows * parts.columns * values <= chunk_size(like)
        assert parts.rows > 1


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
