"""The cross-entropy of the training is torch's own, computed in blocks."""

import pytest
import torch
from torch.nn import functional

from pipeline.training import entropy
from pipeline.training.entropy import mean_cross_entropy


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 7, 8, 50])
def test_loss_and_gradient_are_those_of_torch(monkeypatch, rows, label_smoothing):
    monkeypatch.setattr(entropy, "BLOCK", 8 * 13)  # eight rows: blocks that are full, and one that is not
    logits, targets = 3 * torch.randn(rows, 13), torch.randint(0, 13, (rows,))
    found, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = mean_cross_entropy(found, targets, label_smoothing)
    wanted = functional.cross_entropy(expected, targets, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, wanted)
    (2 * loss).backward()
    (2 * wanted).backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_bfloat16_logits_have_a_float32_loss():
    logits, targets = torch.randn(20, 100).bfloat16().requires_grad_(), torch.randint(0, 100, (20,))
    loss = mean_cross_entropy(logits, targets, 0.1)
    torch.testing.assert_close(loss, functional.cross_entropy(logits.float(), targets, label_smoothing=0.1))
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16
    exact = logits.detach().float().softmax(1)
    exact[torch.arange(20), targets] -= 0.9
    torch.testing.assert_close(logits.grad.float(), (exact - 0.001) / 20, atol=1e-4, rtol=0.01)


def test_a_vocabulary_larger_than_a_block(monkeypatch):
    monkeypatch.setattr(entropy, "BLOCK", 4)
    logits, targets = torch.randn(3, 9), torch.tensor([0, 8, 4])
    torch.testing.assert_close(mean_cross_entropy(logits, targets), functional.cross_entropy(logits, targets))


def test_without_tokens_it_is_what_torch_says():
    assert mean_cross_entropy(torch.randn(0, 9), torch.zeros(0, dtype=torch.long)).isnan()
