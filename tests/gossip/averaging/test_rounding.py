"""What is believed of a codec's rounding."""

from shoal.gossip.averaging import rounding
from shoal.gossip.averaging.tensor_codecs import CODECS


def test_every_codec_says_how_much_it_may_move_a_mean() -> None:
    # One that none of the tables names would be taken to be as exact as float32, and honest owners be blamed.
    assert rounding.RELATIVE.keys() | rounding.BLOCKS.keys() | rounding.GROWTH.keys() == set(CODECS)
