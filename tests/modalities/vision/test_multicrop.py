"""Several crops of a picture: shapes, colours, and randomness that belongs to the sample."""

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision.data import preprocess_for
from modalities.vision.multicrop import MultiCropAugment, MultiCropImages
from modalities.vision.preprocess import ImagePreprocess
from trainer.data import batches
from trainer.errors import ConfigError
from trainer.randomness import seeded


def picture(channels=3):
    return np.random.default_rng(0).integers(0, 255, (40, 50, 3) if channels == 3 else (40, 50), "uint8")


@pytest.mark.parametrize("channels", [1, 3])
def test_two_large_and_some_small_crops(channels):
    preprocess = ImagePreprocess.default(32, channels)
    transform = MultiCropAugment(local_count=3, local_size=(16, 12)).build(preprocess)
    with seeded(0):
        made = transform(picture(channels))
    assert made["global"].shape == (2, channels, 32, 32) and made["local"].shape == (3, channels, 16, 12)
    assert not made["global"][0].equal(made["global"][1])
    pixels = preprocess.denormalise(made["global"])
    assert pixels.min() >= 0 and pixels.max() <= 1 and pixels.std() > 0.05
    assert "local" not in MultiCropAugment(local_count=0).build(preprocess)(picture(channels))


def test_plain_crops_are_parts_of_the_picture():
    """Without colours and mirror images a crop of everything is the picture itself, resized."""
    preprocess = ImagePreprocess.default((20, 20), 1)
    image = picture(1)[:20, :20]
    transform = MultiCropAugment.plain(1, (20, 20), global_scale=(1.0, 1.0), local_scale=(1.0, 1.0), ratio=(1.0, 1.0)).build(preprocess)
    made = transform(image)
    assert all(crop.equal(preprocess.transform(image)) for crop in (*made["global"], *made["local"]))


def test_each_kind_of_crop_has_its_own_blur():
    preprocess = ImagePreprocess.default(32, 3)
    options = dict(global_scale=(1.0, 1.0), local_scale=(1.0, 1.0), ratio=(1.25, 1.25), local_count=1, local_size=(32, 32), flip=False, jitter=0.0, grey=0.0, solarise=0.0)
    sharp = MultiCropAugment(blur=(0.0, 0.0, 0.0), **options).build(preprocess)(picture())
    rough = sharp["global"].std(), sharp["local"].std()
    for i, blur in enumerate([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)]):
        with seeded(3):
            made = MultiCropAugment(blur=blur, **options).build(preprocess)(picture())
        smooth = [made["global"][0].std() < 0.9 * rough[0], made["global"][1].std() < 0.9 * rough[0], made["local"].std() < 0.9 * rough[1]]
        assert smooth == [i == place for place in range(3)]


def test_crops_belong_to_the_sample_and_the_epoch(tmp_path):
    for i in range(12):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (30, 30, 3), "uint8")).save(tmp_path / f"{i}.png")
    data = MultiCropImages(str(tmp_path), augment=MultiCropAugment(local_count=2, local_size=(8, 8)))
    source = data.build(preprocess_for(data, (16, 16), 3))
    alone = list(batches(source, 4, 0, 0, 6, workers=0))
    again = list(batches(source, 4, 0, 2, 6, workers=1))
    assert all(a[key].equal(b[key]) for a, b in zip(alone[2:], again) for key in a)
    by_key = {int(k): crop for batch in alone for k, crop in zip(batch["sample_key"], batch["global"])}
    wide = {int(k): crop for batch in batches(source, 12, 0, 0, 2, workers=0) for k, crop in zip(batch["sample_key"], batch["global"])}
    assert by_key.keys() == wide.keys() and all(wide[k].equal(crop) for k, crop in by_key.items())
    assert alone[0]["global"].shape == (4, 2, 3, 16, 16) and alone[0]["local"].shape == (4, 2, 3, 8, 8)


@pytest.mark.parametrize(
    "fields", [{"global_scale": (0.5, 0.2)}, {"local_scale": (0.0, 0.2)}, {"local_count": -1}, {"blur": (0.0, 2.0, 0.0)}, {"jitter": -0.1}, {"ratio": (0.0, 1.0)}, {"local_size": (0, 8)}]
)
def test_augmentations_that_make_no_sense(fields):
    with pytest.raises(ConfigError, match="augment"):
        MultiCropAugment(**fields)


def test_blocks_are_hidden_as_asked():
    from modalities.common.masking import block_masks

    keys = torch.arange(400) * 7919
    count = torch.arange(400) % 60
    mask = block_masks(count, keys, (10, 12))
    hidden = mask.sum(dim=1)
    assert mask.shape == (400, 120) and (hidden <= count).all() and (count - hidden).float().mean() < 0.5 and (hidden[count == 0] == 0).all()
    assert mask.equal(torch.cat([block_masks(count[i : i + 1], keys[i : i + 1], (10, 12)) for i in range(400)]))
    grid = mask[count > 20].view(-1, 10, 12)
    together = (grid[:, :, 1:] & grid[:, :, :-1]).sum() / grid[:, :, 1:].sum()
    assert together > 0.6  # scattered patches would have a neighbour in a third of the cases
    assert (mask.float().mean(dim=0) > 0.02).all()  # corners, too
