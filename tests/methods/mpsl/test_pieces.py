"""Pieces: a model cut in two or more comes to the gradients of one process, whatever the mini-batches."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from shoal.methods.errors import BadOption, BadTask
from shoal.methods.mpsl.pairs import DigitsCaptions
from shoal.methods.mpsl.pieces import ROW_BOUND, Piece, Split, clip_rows, judge, scale_gradients, split_of

BATCHES = (20, 5, 35)
"""Rows of three clients."""


def model() -> nn.Module:
    torch.manual_seed(0)
    return DigitsCaptions().model()


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = DigitsCaptions().train_data()
    return x[: sum(BATCHES)], y[: sum(BATCHES)]


def gradients(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def in_one_process(whole: nn.Module) -> tuple[Split, float]:
    x, y = data()
    loss = functional.cross_entropy(whole(x), y)
    loss.backward()
    return split_of(whole), float(loss.detach())


def split_step(whole: nn.Module, stages: int, *, own_head: bool) -> tuple[list[Split], nn.Sequential, float]:
    """Make a step of three clients; returns them, the whole body, and the mean loss."""
    clients = [split_of(deepcopy(whole)) for _ in BATCHES]
    host = split_of(deepcopy(whole))
    modules = host.stages(stages)
    if not own_head:
        modules[-1].append(host.head)
    pieces = [Piece(module) for module in modules]
    fronts = [Piece(client.front) for client in clients]
    xs, ys = (each.split(list(BATCHES)) for each in data())
    sent = [front.forward([x])[0] for front, x in zip(fronts, xs, strict=True)]
    for piece in pieces:
        sent = piece.forward(sent)
    judged = [
        judge(out, y, client.head if own_head else None)
        for out, y, client in zip(sent, ys, clients, strict=True)
    ]
    back = [each.gradient for each in judged]
    rows = float(sum(BATCHES))
    for place, piece in enumerate(reversed(pieces)):
        back = piece.backward(back, 1.0 if place else rows)
    for front, client, dz in zip(fronts, clients, back, strict=True):
        front.backward([dz])
        if own_head:
            scale_gradients(client.head, rows)
    body = nn.Sequential(*(block for module in modules for block in module))
    return clients, body, sum(each.loss for each in judged) / rows


@pytest.mark.parametrize("own_head", [True, False], ids=["head: client", "head: host"])
@pytest.mark.parametrize("stages", [1, 2])
def test_gradients_are_those_of_one_process(stages: int, own_head: bool) -> None:
    one = model()
    clients, body, _ = split_step(model(), stages, own_head=own_head)
    whole, _ = in_one_process(one)
    theirs = nn.Sequential(*whole.body, *([] if own_head else [whole.head]))
    assert float((gradients(body) - gradients(theirs)).abs().max()) < 1e-6
    fronts = sum(gradients(client.front) for client in clients)
    assert float((fronts - gradients(whole.front)).abs().max()) < 1e-6
    if own_head:
        heads = sum(gradients(client.head) for client in clients)
        assert float((heads - gradients(whole.head)).abs().max()) < 1e-6


def test_the_loss_is_the_mean_over_rows_and_not_of_the_clients_means() -> None:
    _, _, loss = split_step(model(), 1, own_head=True)
    whole = model()
    _, expected = in_one_process(whole)
    assert loss == pytest.approx(expected, rel=1e-6)
    xs, ys = (each.split(list(BATCHES)) for each in data())
    means = [float(functional.cross_entropy(whole(x), y).detach()) for x, y in zip(xs, ys, strict=True)]
    assert abs(sum(means) / 3 - expected) > 1e-3


def test_rows_whose_gradients_did_not_come_count_for_nothing() -> None:
    body = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    mine, theirs = torch.randn(5, 4), torch.randn(2, 4)
    g = torch.randn(5, 3)
    with_them, alone = Piece(body), Piece(deepcopy(body))
    with_them.forward([mine, theirs])
    both = with_them.backward([g, None], 5.0)
    alone.forward([mine])
    (dz,) = alone.backward([g], 5.0)
    assert torch.allclose(both[0], dz, atol=1e-7)
    assert not both[1].any()
    assert torch.allclose(gradients(with_them.module), gradients(alone.module), atol=1e-7)


def test_a_body_is_cut_into_stages_of_about_equal_size() -> None:
    split = split_of(model())
    assert [len(each) for each in split.stages(1)] == [3]
    assert [len(each) for each in split.stages(2)] == [1, 2]
    assert [len(each) for each in split.stages(3)] == [1, 1, 1]
    for count in (0, 4):
        with pytest.raises(BadOption, match="the body has 3 blocks"):
            split.stages(count)


def test_a_sequence_is_cut_where_one_says() -> None:
    layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert [split_of(layers).numel, split_of(layers, 3).numel] == [(20, 20, 10), (40, 0, 10)]
    assert len(split_of(layers).body) == 2
    with pytest.raises(BadOption, match="choose 1 to 3"):
        split_of(layers, 4)
    with pytest.raises(BadTask, match="front, body"):
        split_of(nn.Linear(2, 2))


def test_a_client_holds_less_than_15_percent_of_the_test_model() -> None:
    front, body, head = split_of(model()).numel
    assert (front + head) / (front + body + head) < 0.15
    assert 15_000 < body < 20_000


def test_no_honest_logit_gradient_is_cut_and_a_long_one_is() -> None:
    torch.manual_seed(1)
    scores, labels = 50 * torch.randn(200, 10), torch.randint(10, (200,))
    honest = judge(scores, labels).gradient
    kept, n_cut = clip_rows(honest, ROW_BOUND)
    assert n_cut == 0
    assert torch.equal(kept, honest)
    bad = torch.stack([torch.full((10,), 1e6), torch.full((10,), torch.nan), torch.full((10,), 0.01)])
    kept, n_cut = clip_rows(bad, ROW_BOUND)
    assert n_cut == 2
    assert float(kept[0].norm()) == pytest.approx(ROW_BOUND, rel=1e-5)
    assert not kept[1].any()
    assert torch.equal(kept[2], bad[2])


def test_labels_are_read_from_logit_gradients_and_not_from_those_of_features() -> None:
    # Why `head` = client is the default. In `head` = host the only negative number is at the label.
    x, y = data()
    split = split_of(model())
    with torch.no_grad():
        features = split.front(x)
        for block in split.body:
            features = block(features)
        logits = split.head(features)
    assert torch.equal(judge(logits, y).gradient.argmin(1), y)
    told = judge(features, y, split.head).gradient
    assert told.shape == features.shape != logits.shape
