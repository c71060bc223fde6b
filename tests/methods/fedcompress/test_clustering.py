"""Cluster-aware training: the loss sees centroids, the optimizer moves weights, and both come together."""

import numpy as np
import pytest
import torch
from torch import nn

from shoal.methods.fedcompress.clustering import ClusterAware, Distillation, divergence
from shoal.methods.fedcompress.method import recluster
from shoal.methods.learning.learner import TorchLearner
from shoal.methods.tasks.digits_variants import CompressibleDigits

KAPPA = 6


def learner() -> TorchLearner:
    return TorchLearner(CompressibleDigits(share="1/5"), seed=0)


def test_the_model_has_few_values_while_the_loss_is_taken_and_its_own_before_the_step() -> None:
    one = learner()
    work = ClusterAware(one.task, one.data, KAPPA)
    before = [p.detach().clone() for p in one.model.parameters()]
    work.loss(one.model, next(work.batches(16))).backward()
    assert [len(p.detach().unique()) for p in one.model.parameters()] == [KAPPA] * 4
    work.before_step(one.model)
    assert all(torch.equal(p, old) for p, old in zip(one.model.parameters(), before, strict=True))


def test_gradients_are_those_of_the_clustered_model() -> None:
    one = learner()
    work = ClusterAware(one.task, one.data, KAPPA)
    batch = next(work.batches(16))
    work.loss(one.model, batch).backward()
    found = one.model[0].weight.grad.clone()
    clustered = recluster(one.initial, one.manifest, KAPPA)
    other = learner()
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.tensor(clustered), other.model.parameters())
    other.task.loss(other.model, batch).backward()
    assert torch.allclose(found, other.model[0].weight.grad, atol=1e-6)


@pytest.mark.slow
def test_training_that_knows_of_clusters_loses_less_to_them() -> None:
    losses = {}
    for aware in (False, True):
        one = learner()
        work = ClusterAware(one.task, one.data, 3)
        trained = one.train(
            one.initial,
            steps=300,
            lr=3e-3,
            batch_size=32,
            optimizer="adam",
            objective=work if aware else None,
        ).params
        clustered = work.clustered(one.model) if aware else recluster(trained, one.manifest, 3)
        assert np.array_equal(recluster(clustered, one.manifest, 3), clustered)
        outputs, _ = one.predict(clustered, one.data[0])
        losses[aware] = float(nn.functional.cross_entropy(outputs, one.data[1]))
    assert losses[True] < 0.5 * losses[False]


def test_small_tensors_are_left_alone() -> None:
    one = learner()
    work = ClusterAware(one.task, one.data, 16)
    work.snap(one.model)
    assert len(one.model[2].bias.detach().unique()) == 10
    work.before_step(one.model)


@pytest.mark.slow
def test_distillation_brings_a_clustered_student_nearer_to_its_teacher() -> None:
    one = learner()
    teacher = one.train(one.initial, steps=200, lr=3e-3, batch_size=32, optimizer="adam").params
    inputs = one.task.ood_data(1024, 1)
    logits, _ = one.predict(teacher, inputs)
    work = Distillation(one.task, inputs, logits, kappa=4, temperature=2.0)
    one.train(teacher, steps=40, lr=1e-4, batch_size=256, optimizer="adam", objective=work)
    distilled = work.clustered(one.model)
    fresh = one.task.ood_data(512, 2)
    expected, _ = one.predict(teacher, fresh)
    apart = [
        float(divergence(expected, one.predict(params, fresh)[0]))
        for params in (recluster(teacher, one.manifest, 4), distilled)
    ]
    assert np.unique(distilled[:4096]).size == 4
    assert apart[1] < 0.5 * apart[0]


def test_a_model_does_not_differ_from_itself_and_differs_from_another() -> None:
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    assert float(divergence(logits, logits)) == 0
    # KL((3/4, 1/4) || (1/2, 1/2)) = log 2 - H(1/4).
    one, half = torch.tensor([[3.0, 1.0]]).log(), torch.zeros(1, 2)
    assert np.isclose(float(divergence(one, half)), np.log(2) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25))
