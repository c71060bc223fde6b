"""Semi-supervised steps: the loss by hand, no gradient through labels, and batches that go round."""

from math import exp, log

import pytest
import torch
from torch import nn

from shoal.methods.fedstar.semi_supervised import SemiSupervised, pseudo_label_loss
from shoal.methods.tasks.digits_variants import PartlyLabelledDigits

# Softmax of (log a, log b) is (a, b) / (a + b).
LOGITS = torch.tensor([[9.0, 1.0], [1.0, 9.0], [6.0, 4.0], [8.0, 2.0]]).log()


def test_the_loss_of_four_items_by_hand() -> None:
    loss, kept = pseudo_label_loss(LOGITS, 0.8, 1.0)
    # Confidences 0.9, 0.9, 0.6, 0.8: three are kept, and four divide.
    assert float(loss) == pytest.approx(-(2 * log(0.9) + log(0.8)) / 4, abs=1e-6)
    assert kept == 3


def test_nothing_kept_is_no_loss_and_no_nan() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss, kept = pseudo_label_loss(logits, 0.95, 1.0)
    loss.backward()
    assert (float(loss.detach()), kept) == (0.0, 0)
    assert not logits.grad.any()


def test_temperature_lowers_confidence_not_the_loss_of_what_is_kept() -> None:
    # At T = 4 logits of 9 : 1 are 9^(1/4) : 1, a confidence of 0.634.
    assert 1 / (1 + exp(-log(9) / 4)) == pytest.approx(0.634, abs=1e-3)
    loss, kept = pseudo_label_loss(LOGITS, 0.63, 4.0)
    assert kept == 2
    assert float(loss) == pytest.approx(-2 * log(0.9) / 4, abs=1e-6)


def test_no_gradient_flows_through_the_pseudo_label() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(16, 5), nn.Linear(5, 3)
    loss, _ = pseudo_label_loss(layer(x), 0.3, 1.0)
    loss.backward()
    through = layer.weight.grad.clone()
    layer.zero_grad()
    labels = torch.softmax(layer(x), -1).max(-1)
    kept = (labels.values >= 0.3).detach()
    fixed = nn.functional.cross_entropy(layer(x), labels.indices.detach(), reduction="none")
    ((kept * fixed).sum() / 16).backward()
    assert torch.allclose(through, layer.weight.grad, atol=1e-7, rtol=0)


def objective(beta: float, l2: float = 0.0) -> SemiSupervised:
    task = PartlyLabelledDigits(share="1/5", labelled=0.05)
    return SemiSupervised(
        task,
        task.train_data(),
        task.unlabelled_data(),
        beta=beta,
        threshold=0.0,
        temperature=1.0,
        l2=l2,
        seed=0,
    )


def test_labels_go_round_while_unlabelled_examples_pass_once() -> None:
    work = objective(0.5)
    stream = work.batches(64)
    drawn = [next(stream) for _ in range(7)]
    labelled = torch.cat([batch[0][0] for batch in drawn])
    unlabelled = torch.cat([batch[1] for batch in drawn])
    assert len(unlabelled) == 7 * 32
    assert len(torch.unique(unlabelled, dim=0)) == len(unlabelled)
    known = len(work.data[0])
    assert known < 32
    assert len(labelled) == 7 * known
    assert len(torch.unique(labelled, dim=0)) == known


def test_the_labelled_batches_are_the_same_with_and_without_pseudo_labels() -> None:
    orders = []
    for beta in (0.0, 0.5):
        torch.manual_seed(3)
        stream = objective(beta).batches(4)
        orders.append(torch.stack([next(stream)[0][0] for _ in range(9)]))
    assert torch.equal(*orders)


def test_the_whole_loss_is_the_sum_of_its_terms() -> None:
    torch.manual_seed(0)
    work = objective(0.25, l2=0.01)
    model = work.task.model()
    labelled, unlabelled = next(work.batches(8))
    with torch.no_grad():
        supervised = work.task.loss(model, labelled)
        pseudo, _ = pseudo_label_loss(model(unlabelled), 0.0, 1.0)
        kernels = sum(float(p.square().sum()) for name, p in model.named_parameters() if "weight" in name)
        whole = work.loss(model, (labelled, unlabelled))
    assert float(whole) == pytest.approx(0.75 * float(supervised) + 0.25 * float(pseudo) + 0.01 * kernels)
