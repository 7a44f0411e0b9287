"""A frozen network beside the one that is trained."""

import copy

import torch
from torch import nn

from trainer.frozen import Frozen


class Asking(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.teacher = Frozen(nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5)))


def test_it_is_out_of_sight_and_stays_as_it_is():
    module = Asking().train()
    network = module.teacher.on(torch.device("cpu"))
    assert set(module.state_dict()) == {"own.weight", "own.bias"} and len(list(module.parameters())) == 2
    assert not network.training and not network[1].training and not any(p.requires_grad for p in network.parameters())
    module.double()
    assert network[0].weight.dtype == torch.float32


def test_a_copy_asks_the_same_network():
    module = Asking()
    again = copy.deepcopy(module)
    assert again.teacher is module.teacher and again.own.weight is not module.own.weight


def test_on_the_meta_device_it_is_a_copy():
    frozen = Frozen(nn.Linear(2, 3))
    assert frozen.on(torch.device("meta"))(torch.empty(4, 2, device="meta")).shape == (4, 3)
    assert frozen.on(torch.device("cpu")).weight.device.type == "cpu"
