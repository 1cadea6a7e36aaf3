"""Rules that look at single coordinates or blocks of them."""

from ._block_coordinate_descent import BlockState as BlockState
from ._block_coordinate_descent import block_coordinate_descent as block_coordinate_descent
from ._block_coordinate_descent import scale_by_block as scale_by_block
from ._clip_coordinates import clip_coordinates as clip_coordinates
