"""The golden tool on files of training methods: the official ones, and others with values of our own choice."""

from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from timm.scheduler.wsd_lr import WSDLRScheduler
from torch.nn import functional as F

from tests.trainer.references import infinite_as_published, of_timm, of_torch, write_golden
from tools.check_golden import main

FOLDER = Path(__file__).parents[1] / "golden" / "methods"
PUBLISHED = {"cosine": "cosine_cooldown_infinite", "inverse_sqrt": "inverse_sqrt_infinite", "linear": "constant_infinite"}


def schedules(path, iters=33, epochs=3, ratios=(0.07, 0.22, 0.61), peak=4e-4, const=0.6, low=0.003, wsd=None, warm=9, low_cos=0.0, timm=None, a=0.3, tasks=(0, 3)):
    """A file as methods/schedules, computed with transformers, timm and the formulas of the papers."""
    total = iters * epochs
    wsd = wsd or dict(num_warmup_steps=3, num_decay_steps=21, num_training_steps=50, min_lr_ratio=0.02, decay_type="linear")
    timm = timm or dict(t_initial=31, decay_t=11, lr_min=1e-4, warmup_t=0, decay_fn="linear")
    power = dict(lr=0.004, a=a, b=-0.4, c=32.0, warm=5, n=70)
    cos = dict(num_warmup_steps=warm, num_training_steps=61, min_lr_rate=low_cos)
    config = dict(iters=iters, epochs=epochs, warmup_ratio=ratios[0], cooldown_ratio=ratios[1], constant_ratio=ratios[2], lr=peak, const=const, minr=low)
    config |= dict(wsd=wsd, power=power, invsqrt=dict(num_warmup_steps=warm), cos=cos, timm=timm)
    rates = {
        f"infinite.{PUBLISHED[style]}.task{task}": [
            infinite_as_published(i, total, *ratios, peak, peak * const, peak * low, style, task) for i in range(total)
        ]
        for style in PUBLISHED for task in tasks
    }  # fmt: skip
    law = [min(power["lr"], power["a"] * (i * power["c"]) ** power["b"]) if i else 0.0 for i in range(power["n"])]
    optimization = transformers.optimization
    rates |= {
        "wsd": of_torch(lambda o: optimization.get_wsd_schedule(o, **wsd), 55, 1.0),
        "inverse_sqrt": of_torch(lambda o: optimization.get_inverse_sqrt_schedule(o, warm), 44, 1.0),
        "cosine_min_lr": of_torch(lambda o: optimization.get_cosine_with_min_lr_schedule_with_warmup(o, **cos), 61, 1.0),
        "power": [law[power["warm"]] * i / power["warm"] if i < power["warm"] else law[i] for i in range(power["n"])],
        "timm_wsd": of_timm(lambda o: WSDLRScheduler(o, **timm, t_in_epochs=False), timm["t_initial"] + 1, 0.01),
    }
    return write_golden(path, "methods/schedules", config, {f"output.{name}": torch.tensor(v) for name, v in rates.items()})


def soups(path, n=7, d=5, k=4, count=60, seed=3):
    torch.manual_seed(seed)
    truth, x = torch.randn(k, d), torch.randn(count, d)
    y = (x @ truth.T).argmax(1)
    models = [{"weight": truth + 0.9 * torch.randn(k, d), "bias": 0.3 * torch.randn(k)} for _ in range(n)]

    def accuracy(m):
        return (x @ m["weight"].T + m["bias"]).argmax(1).eq(y).sum().item() / count

    scores = [accuracy(m) for m in models]
    order = [i for _, i in sorted(zip(scores, range(n)))][::-1]  # a stable ascending sort, reversed
    chosen, best = [order[0]], scores[order[0]]
    soup = {name: t.clone() for name, t in models[order[0]].items()}
    for i in order[1:]:
        trial = {name: t * (len(chosen) / (len(chosen) + 1)) + models[i][name] * (1 / (len(chosen) + 1)) for name, t in soup.items()}
        if (reached := accuracy(trial)) > best:
            soup, best = trial, reached
            chosen.append(i)
    assert len(chosen) > 1, "a test of the greedy part needs a model that is added"
    tensors = {"input.x": x, "input.y": y, "output.acc": torch.tensor(scores), "output.order": torch.tensor(order)}
    tensors |= {"output.ingredients": torch.tensor(chosen), "output.greedy_acc": torch.tensor([best])}
    tensors |= {f"output.greedy.{name}": t for name, t in soup.items()}
    tensors |= {f"output.uniform.{name}": sum(m[name] / n for m in models) for name in soup}
    tensors |= {f"state.m{i}.{name}": t for i, m in enumerate(models) for name, t in m.items()}
    return write_golden(path, "methods/soups", {"n": n, "d": d, "k": k, "N": count}, tensors)


def zscl(path, n=9, c=4, temperature=3.5, shape=(2, 3, 5), steps=11, alpha=0.7, decay=0.9):
    torch.manual_seed(1)
    teacher, student, start, anchor = torch.randn(n, c) * 4, torch.randn(n, c), torch.randn(shape), torch.randn(shape)
    weights = [torch.randn(shape) for _ in range(steps)]
    kl = lambda a, b: (F.kl_div((b / temperature).log_softmax(1), (a / temperature).log_softmax(1), log_target=True, reduction="batchmean"))  # noqa: E731
    entropy = lambda a: -((a / temperature).softmax(1) * (a / temperature).log_softmax(1)).sum(1).mean()  # noqa: E731
    tensors = {"input.teacher": teacher, "input.student": student, "state.w": start, "state.anchor": anchor}
    tensors["output.distill"] = (kl(teacher, student) + entropy(teacher)) * temperature**2
    tensors["output.distill_t"] = (kl(teacher.T, student.T) + entropy(teacher.T)) * temperature**2
    tensors["output.l2"] = torch.linalg.vector_norm(weights[0] - start) ** 2
    tensors["output.ema"] = torch.lerp(start, weights[0], decay)
    pulled = start
    for i, w in enumerate(weights):
        pulled = torch.lerp(anchor, torch.lerp(pulled, w, 1 / (i + 2)), alpha)
        tensors |= {f"input.w.{i}": w, f"output.we.{i}": torch.stack([start, *weights[: i + 1]]).mean(0), f"output.wise.{i}": pulled}
    config = {"n": n, "c": c, "T": temperature, "shape": shape, "steps": steps, "alpha": alpha, "decay": decay}
    return write_golden(path, "methods/zscl", config, tensors)


def test_official_files(capsys):
    assert main([str(FOLDER)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("3 file(s), 0 failure(s)\n") and "output.infinite.inverse_sqrt_infinite.task1" in out


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"iters": 100, "epochs": 1, "ratios": (0.29, 0.57, 0.57), "peak": 0.1, "const": 1.0, "low": 0.5, "tasks": (0, 1, 2)},
        {"wsd": dict(num_warmup_steps=0, num_decay_steps=50, num_training_steps=50, decay_type="1-sqrt"), "warm": 0, "low_cos": 0.9},
        {"wsd": dict(num_warmup_steps=7, num_decay_steps=5, num_stable_steps=4, min_lr_ratio=0.5, warmup_type="cosine", decay_type="cosine"), "a": 9.0},
        {"timm": dict(t_initial=24, decay_t=24, lr_min=0.002, warmup_t=9, warmup_lr_init=0.001, decay_fn="cosine"), "a": 0.01},
        {"iters": 1, "epochs": 15, "ratios": (0.07, 0.07, 0.9), "tasks": (0,)},
    ],
)
def test_other_schedules(options, tmp_path, capsys):
    assert main([schedules(tmp_path / "a.safetensors", **options)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("options", [{"seed": 3}, {"seed": 4, "n": 12}, {"seed": 5, "n": 3, "k": 2}])
def test_other_soups(options, tmp_path, capsys):
    assert main([soups(tmp_path / "a.safetensors", **options)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "steps": 1, "shape": (300, 200), "c": 100}, {"alpha": 0.0, "decay": 1.0}])
def test_other_zscl(options, tmp_path, capsys):
    assert main([zscl(tmp_path / "a.safetensors", **options)]) == 0, capsys.readouterr().out


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def output_names():
    for make in (schedules, soups, zscl):
        name = f"methods/{make.__name__}"
        yield from ((make, output) for output in read(FOLDER.parent / f"{name}.safetensors")[0] if output.startswith("output."))


@pytest.mark.parametrize("make, output", list(output_names()), ids=lambda v: getattr(v, "__name__", v))
def test_one_wrong_value_fails(make, output, tmp_path, capsys):
    """A hundred-thousandth of the largest value is noticed, however small the values are."""
    from safetensors.torch import save_file

    source = FOLDER.parent / "methods" / f"{make.__name__}.safetensors"
    tensors, metadata = read(source)
    wrong = tensors[output].clone()
    wrong.view(-1)[-1] += 1 if not wrong.is_floating_point() else 1e-5 * wrong.abs().max()
    save_file({**tensors, output: wrong}, tmp_path / "a.safetensors", metadata)
    assert main([str(tmp_path / "a.safetensors")]) == 1
    assert f"1 of {sum(n.startswith('output.') for n in tensors)} outputs: {output}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, words",
    [
        ({"wsd": dict(num_warmup_steps=1, num_decay_steps=5, num_training_steps=50, num_cycles=1.5)}, "wsd was made with num_cycles"),
        ({"timm": dict(t_initial=24, decay_t=4, decay_fn="exp", decay_ratio=0.3)}, "timm was made with decay_ratio"),
    ],
)
def test_settings_that_we_do_not_have_fail(options, words, tmp_path, capsys):
    assert main([schedules(tmp_path / "a.safetensors", **options)]) == 1
    assert words in capsys.readouterr().out


def test_unknown_methods_styles_and_missing_parts_fail(tmp_path, capsys):
    config = {"iters": 10, "epochs": 1, "warmup_ratio": 0.1, "cooldown_ratio": 0.2, "constant_ratio": 0.5, "lr": 1.0, "const": 0.5, "minr": 0.1}
    rate = {"output.infinite.wavy_infinite.task0": torch.zeros(10)}
    assert main([write_golden(tmp_path / "a.safetensors", "methods/schedules", config, rate)]) == 1
    assert main([write_golden(tmp_path / "b.safetensors", "methods/schedules", config, {"output.wsd": torch.zeros(3)})]) == 1
    assert main([write_golden(tmp_path / "c.safetensors", "methods/soup", {}, rate)]) == 1
    out = capsys.readouterr().out
    assert "not recomputed" in out and "lacks 'wsd'" in out and "Did you mean 'methods/soups'" in out
