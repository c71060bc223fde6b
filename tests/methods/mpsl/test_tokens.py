"""Tokens: how far activations are from what was sent, and how many bytes they have."""

from typing import get_args

import numpy as np
import pytest

from shoal.gossip.calls.forms import MAX_BYTES, Form, TensorForm, pack, unpack
from shoal.methods.errors import BadTask
from shoal.methods.mpsl.tokens import Array, Number, form_of, heard, most_rows, token_bytes, told
from shoal.methods.mpsl.wire import Names, forms_of

NUMBERS: tuple[Number, ...] = get_args(Number)


def sent(rows: Array, number: Number) -> tuple[Array, int]:
    """Return what comes of rows on a wire, and their bytes."""
    forms = form_of("z", rows.shape[1:], len(rows), number)
    shapes, data = pack(told("z", rows, number), forms)
    return heard("z", unpack(shapes, data, forms)), len(data)


def tokens() -> Array:
    """Return tokens of very unlike sizes."""
    dice = np.random.default_rng(0)
    sizes = 10.0 ** dice.uniform(-3, 2, (16, 11, 1))
    return (sizes * dice.standard_normal((16, 11, 32))).astype(np.float32)


@pytest.mark.parametrize("number", NUMBERS)
def test_errors_are_within_bounds_and_bytes_as_told(number: Number) -> None:
    rows = tokens()
    found, n_bytes = sent(rows, number)
    largest = np.abs(rows).max(axis=-1, keepdims=True)
    bound = {"float32": 0 * largest, "float16": 2.0**-11 * np.abs(rows) + 2.0**-25, "int8": largest / 254}
    assert (np.abs(found - rows) <= bound[number] * (1 + 1e-5)).all()
    assert n_bytes == pytest.approx(len(rows) * token_bytes((11, 32), number), rel=0.001)


def test_a_token_of_zeros_stays_and_bad_scales_make_nothing_of_it() -> None:
    rows = np.zeros((2, 3, 4), np.float32)
    assert not sent(rows, "int8")[0].any()
    parts = told("z", rows + 1, "int8")
    assert not heard("z", {**parts, "z_scale": np.ones((2, 1, 1), np.float32)}).any()
    huge = {"z": np.full((1, 1, 2), 3e38, np.float32), "z_scale": np.full((1, 1, 1), 3e38, np.float32)}
    assert np.isfinite(heard("z", huge)).all()


@pytest.mark.parametrize("number", NUMBERS)
def test_as_many_rows_as_a_call_holds_fit_it_and_one_more_does_not(number: Number) -> None:
    rows = most_rows((198, 768), number)
    Form(form_of("z", (198, 768), rows, number), None)
    assert rows * token_bytes((198, 768), number) <= MAX_BYTES
    with pytest.raises(ValueError, match="at most"):
        Form(form_of("z", (198, 768), rows + 1, number), None)


def test_an_example_that_no_call_holds_is_said() -> None:
    with pytest.raises(BadTask, match="cut the model where they are smaller"):
        forms_of(Names(0, 1), (3000, 1000), (10,), 64, "float16")


def test_no_form_has_room_for_labels_or_inputs() -> None:
    stages = [forms_of(Names(stage, 2), (11, 32), (32,), 64, "int8") for stage in (0, 1)]
    forms = {**stages[0], **stages[1]}
    words = {name for form in forms.values() for name in [*form.takes, *(form.gives or {})]}
    assert words == {"z", "z_scale", "y", "g", "dz", "dz_scale", "n", "w", "v"}
    versions = [form.gives["v"] for form in forms.values() if form.gives and "v" in form.gives]
    assert versions == [TensorForm((1,))] * 2, "one number of the body, and none of an example"
    assert {verb.rstrip("2") for verb in forms} == {"forward", "grad", "predict", "give", "take"}
