"""Everything that is generated passes Tint and Chrome's validator, and is played by the player on Dawn's Null backend.

Cases of every op alone (unfused and by the default pipeline), nine networks and random graphs, for a portable, a large
and a software target. Creating pipelines and bind groups and dispatching count: limits, aliasing, alignment.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import networks
from gpucompile.errors import DeviceError
from tests.golden import playing
from tests.support import OPS, NullPlayer

#: Weights of hundreds of megabytes.
LARGE = {"alexnet", "vgg19", "zfnet512"}


@pytest.fixture(scope="module")
def null() -> Iterator[NullPlayer]:
    with NullPlayer() as player:
        yield player


@pytest.mark.parametrize("name", OPS)
def test_op(null: NullPlayer, name: str) -> None:
    played, problems = null.call(playing.play_op, name)
    assert not problems, "\n".join(problems)
    assert played == playing.expected_cases(name), "other cases were played than have kernels"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow, pytest.mark.sample] if n in LARGE else []) for n in networks.NAMES],
)
def test_network(null: NullPlayer, name: str) -> None:
    assert min(null.call(playing.play_network, name).values()) > 10


def test_random_graphs(null: NullPlayer) -> None:
    assert null.call(playing.play_random_graphs, 40) == 40


def test_the_validator_is_at_work(null: NullPlayer) -> None:
    """What Chrome forbids and wgpu-native allows is an error here: else the tests above would prove nothing."""
    for function in (playing.barrier_after_return, playing.too_many_threads, playing.misaligned_offset):
        with pytest.raises(DeviceError):
            null.call(function)
