import pytest
import torch

from trainer.distillation import js_divergence, soft_cross_entropy


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_cross_entropy(temperature):
    torch.manual_seed(0)
    teacher, student = torch.randn(6, 5) * 3, torch.randn(6, 5)
    expected = 0.0
    for t, s in zip(teacher.double(), student.double()):
        p = torch.exp(t / temperature) / torch.exp(t / temperature).sum()
        q = torch.exp(s / temperature) / torch.exp(s / temperature).sum()
        expected += float(-(p * q.log()).sum()) * temperature**2 / len(teacher)
    assert soft_cross_entropy(teacher, student, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_the_student_learns_and_the_teacher_does_not():
    teacher = torch.randn(4, 3, requires_grad=True)
    student = teacher.detach().clone().requires_grad_()
    soft_cross_entropy(teacher, student, 2.0).backward()
    assert teacher.grad is None and student.grad.abs().max() < 1e-6  # where they agree there is nothing to learn


def test_gradient_keeps_its_size_at_high_temperature():
    torch.manual_seed(0)
    teacher, norms = torch.randn(8, 4), []
    for temperature in (20.0, 200.0):
        student = torch.zeros(8, 4, requires_grad=True)
        soft_cross_entropy(teacher, student, temperature).backward()
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_jensen_shannon_is_the_mean_divergence_to_the_middle():
    torch.manual_seed(0)
    a, b = torch.randn(5, 7), (3 * torch.randn(5, 7)).requires_grad_()
    p, q = a.softmax(1), b.softmax(1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)).mean() / 2
    found = js_divergence(a, b)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(js_divergence(b.detach(), a), expected.detach())
    found.backward()
    assert b.grad.isfinite().all() and js_divergence(a, a).abs() < 1e-7
    apart = js_divergence(torch.tensor([[500.0, 0.0]]), torch.tensor([[0.0, 500.0]]))
    torch.testing.assert_close(apart, torch.tensor(2.0).log())


def test_no_gradient_goes_to_the_teacher():
    teacher, student = torch.randn(2, 3, requires_grad=True), torch.randn(2, 3, requires_grad=True)
    js_divergence(teacher, student).backward()
    assert teacher.grad is None and student.grad.any()
