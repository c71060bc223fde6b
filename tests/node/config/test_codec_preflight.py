"""A codec that would ruin a run is refused with what to type instead."""

from typing import Final

import pytest

from shoal.gossip.averaging.tensor_codecs import CODECS
from shoal.gossip.run_spec import RunSettings, Scalar
from shoal.methods.registry import METHODS, load_method
from shoal.node.config.codec_preflight import check_codec
from shoal.node.errors import BadConfig

WITHOUT_MOMENTUM: Final[dict[str, dict[str, Scalar]]] = {
    "diloco": {"outer_lr": 1.0, "outer_momentum": 0.0},
    "fedavgm": {"outer_momentum": 0.5},
    "fedadam": {"beta1": 0.0},
    "fedyogi": {"beta1": 0.0},
}
"""The methods that average changes, with options beside which topk is not refused for another reason."""


def refusal(codec: str, method: str, **options: Scalar) -> str:
    try:
        check_codec(RunSettings(method=method, codec=codec, options=options), load_method(method, options))
    except BadConfig as error:
        return str(error)
    return ""


def test_a_codec_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    assert "float32, float16, bfloat16, int8, int4, int2, topk, sign: choose one" in refusal("int3", "fedavg")


@pytest.mark.parametrize("codec", ["int2", "topk", "sign"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_coarsest_codecs_are_only_for_a_method_that_averages_changes(codec: str, method: str) -> None:
    said = refusal(codec, method, **WITHOUT_MOMENTUM.get(method, {}))
    assert (said == "") == (method in WITHOUT_MOMENTUM)
    assert said == "" or said.endswith("--method diloco, or --codec float32, float16, bfloat16, int8, int4")


@pytest.mark.parametrize("codec", [name for name, codec in CODECS.items() if not codec.deltas_only])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_all_others_are_for_every_method(codec: str, method: str) -> None:
    assert refusal(codec, method) == ""


@pytest.mark.parametrize("codec", ["int2", "topk", "sign"])
def test_the_coarsest_codecs_are_refused_beside_outer_momentum(codec: str) -> None:
    advice = "take --codec int4, or --option outer_lr=1 and --option outer_momentum=0"
    assert advice in refusal(codec, "diloco")
    assert advice in refusal(codec, "diloco", outer_momentum=0.51)
    assert refusal(codec, "diloco", outer_momentum=0.5) == ""


@pytest.mark.parametrize(("method", "name"), [("fedavgm", "outer_momentum"), ("fedadam", "beta1")])
def test_what_is_named_to_type_is_not_refused_again(method: str, name: str) -> None:
    assert refusal("sign", method).endswith(f"take --codec int4, or --option {name}=0.5")
    assert refusal("sign", method, **{name: 0.5}) == ""
