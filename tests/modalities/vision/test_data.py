import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from modalities.vision import digits
from modalities.vision.augment import FinetuneAugment, PretrainAugment
from modalities.common.folders import labelled_subset, split
from modalities.common.sources import Augmented
from modalities.vision.data import LabelledImages, UnlabelledImages, built_in, check_images, pixel_statistics
from modalities.vision.preprocess import ImagePreprocess
from modalities.vision.sources import ImageArray, ImageFolder
from trainer.config import from_dict, to_dict
from trainer.corrupt import write_quarantine
from trainer.data import Source, batches, ordered_batches
from trainer.errors import ConfigError, DataError
from trainer.randomness import sample_keys

P = ImagePreprocess(size=(8, 8), crop_pct=1.0)
GREY = ImagePreprocess.default(8, channels=1)


def write(path, colour=(255, 0, 0), size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes of 6 images, one nested, beside things that are no images."""
    root = tmp_path / "animals"
    for i in range(6):
        write(root / "cat" / f"{i}.png", (i, 0, 0))
        write(root / "dog" / "deep" / f"{i}.JPG", (0, 0, 255))
    (root / "cat" / "notes.txt").write_text("hello")
    (root / ".hidden").mkdir()
    write(root / ".hidden" / "x.png")
    (root / "cat" / "._0.png").write_bytes(b"resource fork")
    return root


# --- folders ---


def test_folder_with_classes(folder):
    source = ImageFolder(folder, P)
    assert isinstance(source, Source)
    assert source.classes == ("cat", "dog") and len(source) == 12
    assert source.labels.tolist() == [0] * 6 + [1] * 6
    sample = source[7]
    assert sample["image"].shape == (3, 8, 8) and sample["label"].item() == 1
    assert [os.path.basename(f) for f in source.files[:6]] == [f"{i}.png" for i in range(6)]
    assert source.describe()["name"] == "animals" and source.describe()["samples"] == 12


def test_folder_without_labels_takes_images_at_any_depth(folder):
    write(folder / "top.webp")
    source = ImageFolder(folder, P, labelled=False)
    assert len(source) == 13 and source.labels is None and set(source[0]) == {"image"}


def test_folders_that_are_not_as_expected(tmp_path, folder):
    with pytest.raises(DataError, match="does not exist"):
        ImageFolder(tmp_path / "nothing", P)
    with pytest.raises(DataError, match="is a file, not a folder"):
        ImageFolder(folder / "cat" / "0.png", P)
    (tmp_path / "papers").mkdir()
    with pytest.raises(DataError, match="no files at all"):
        ImageFolder(tmp_path / "papers", P)
    (tmp_path / "papers" / "a.pdf").write_text("x")
    with pytest.raises(DataError, match=r"no images .*1 x \.pdf; expected .*\.jpg"):
        ImageFolder(tmp_path / "papers", P)
    with pytest.raises(DataError, match=r"6 image\(s\) lie directly.*<class>/<image>"):
        ImageFolder(folder / "cat", P)
    write(tmp_path / "one" / "cat" / "0.png")
    with pytest.raises(DataError, match=r"one class only \(cat\); a classifier needs at least two"):
        ImageFolder(tmp_path / "one", P)
    assert len(ImageFolder(tmp_path / "one", P, labelled=False)) == 1
    (folder / "fox").mkdir()
    with pytest.raises(DataError, match=r"No images in the class folder\(s\) fox"):
        ImageFolder(folder, P)


def test_known_classes_fix_the_numbers(folder):
    source = ImageFolder(folder, P, classes=("dog", "bird", "cat"))
    assert source.labels.tolist() == [2] * 6 + [0] * 6 and source.classes == ("dog", "bird", "cat")
    with pytest.raises(DataError, match=r"class\(es\) dog, which are not among the known ones: cat, bird"):
        ImageFolder(folder, P, classes=("cat", "bird"))


def test_links_are_followed_but_not_in_circles(folder):
    (folder / "cat" / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "wolf").symlink_to(folder / "dog", target_is_directory=True)
    assert len(ImageFolder(folder, P, labelled=False)) == 12


def test_a_bad_file_is_met_at_the_start_and_later(folder):
    source = ImageFolder(folder, P)
    check_images(source)
    (folder / "cat" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match="3.png is empty"):
        check_images(source)
    with pytest.raises(DataError, match="3.png is empty"):
        source[3]


# --- splits and subsets ---


def test_split_is_stratified_disjoint_and_repeatable(folder):
    source = ImageFolder(folder, P)
    train, test = split(source, 1 / 3, seed=0)
    assert train.labels.bincount().tolist() == [4, 4] and test.labels.bincount().tolist() == [2, 2]
    assert set(train.files) | set(test.files) == set(source.files) and not set(train.files) & set(test.files)
    assert split(source, 1 / 3, seed=0)[1].files == test.files != split(source, 1 / 3, seed=1)[1].files
    assert len(split(source, 0.001)[1]) == 2 and len(split(source, 0.999)[0]) == 2
    with pytest.raises(DataError, match="at least 2"):
        split(source.take([0, 6, 7]), 0.5)


def test_labelled_subset(folder):
    source = ImageFolder(folder, P)
    part = labelled_subset(source, per_class=3, seed=0)
    assert part.labels.bincount().tolist() == [3, 3] and part.files == sorted(part.files)
    assert labelled_subset(source, 3, 0).files == part.files != labelled_subset(source, 3, 1).files
    with pytest.raises(DataError, match="7 labelled samples per class .* cat: 6, dog: 6"):
        labelled_subset(source, 7)
    with pytest.raises(DataError, match="no labels"):
        labelled_subset(ImageFolder(folder, P, labelled=False), 2)


# --- arrays in memory ---


@pytest.mark.parametrize("preprocess", [GREY, ImagePreprocess.default(16, 1), P, ImagePreprocess(size=(8, 8), crop_pct=0.8)])
def test_fetch_equals_samples_one_by_one(preprocess):
    images = torch.randint(0, 256, (10, 8, 8), dtype=torch.uint8)
    source = ImageArray(images, preprocess, torch.arange(10) % 2, ("a", "b"))
    batch = source.fetch([3, 1, 9])
    assert batch["image"].shape == (3, preprocess.channels, *preprocess.size)
    torch.testing.assert_close(batch["image"], torch.stack([source[i]["image"] for i in (3, 1, 9)]))
    assert batch["label"].tolist() == [1, 1, 1]
    part = source.take([5, 4])
    torch.testing.assert_close(part.fetch([1])["image"], source.fetch([4])["image"])


def test_arrays_are_checked():
    with pytest.raises(DataError, match="uint8"):
        ImageArray(torch.rand(4, 8, 8), GREY)
    with pytest.raises(DataError, match="Expected 4 labels in 0..1"):
        ImageArray(torch.zeros(4, 8, 8, dtype=torch.uint8), GREY, torch.tensor([0, 1, 2, 0]), ("a", "b"))


# --- augmentation ---


def seeded(function, seed=0):
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    return function()


AUGMENTATIONS = [
    PretrainAugment(),
    FinetuneAugment(),
    FinetuneAugment(crop_scale=None, shift=2, auto_augment=None, erase_prob=0.0, flip=False),
    FinetuneAugment(auto_augment="original-mstd0.5"),
    FinetuneAugment(auto_augment="augmix-m5"),
    FinetuneAugment(auto_augment=None, color_jitter=0.4),
]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("config", AUGMENTATIONS)
def test_augmentations_give_tensors_and_follow_the_global_seed(config, channels):
    preprocess = ImagePreprocess.default(24, channels)
    transform = config.build(preprocess)
    pictures = [
        Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 31, 3)).astype(np.uint8)),
        torch.rand(1, 30, 30),  # finer than 8 bits
    ]
    for picture in pictures:
        once = seeded(lambda: transform(picture))
        assert once.shape == (channels, 24, 24) and once.isfinite().all()
        torch.testing.assert_close(seeded(lambda: transform(picture)), once, atol=0, rtol=0)
        assert any(not torch.equal(seeded(lambda: transform(picture), seed), once) for seed in range(1, 5))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_strongest_auto_augment_never_fails(channels):
    """timm asks for 0 bits of posterisation at full strength, which Pillow refuses."""
    transform = FinetuneAugment(crop_scale=None, auto_augment="rand-m10-n4-inc1", erase_prob=0.0).build(ImagePreprocess.default(16, channels))
    image = Image.new("RGB", (16, 16), (10, 200, 90))
    seeded(lambda: [transform(image) for _ in range(300)])


def test_no_augmentation_is_the_evaluation_transform_and_keeps_fetch():
    assert PretrainAugment.none().build(P) is None and FinetuneAugment.none().build(P) is None
    # with nothing random switched on, timm's pipeline adds nothing of its own
    config = FinetuneAugment(crop_scale=None, flip=False, auto_augment=None, erase_prob=0.0, erase_count=2)
    image = Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 31, 3)).astype(np.uint8))
    for size in ((16, 16), (16, 24)):
        p = ImagePreprocess.default(size)
        torch.testing.assert_close(config.build(p)(image), p.transform(image))


def test_shift_moves_by_at_most_so_many_pixels():
    picture = torch.zeros(1, 9, 9, dtype=torch.uint8)
    picture[0, 4, 4] = 255
    p = ImagePreprocess(size=(9, 9), channels=1, mean=(0.0,), std=(1.0,), crop_pct=1.0)
    transform = FinetuneAugment(crop_scale=None, shift=2, flip=False, auto_augment=None, erase_prob=0.0).build(p)
    places = {tuple(np.argwhere(transform(picture)[0].numpy() == 1)[0].tolist()) for _ in range(400)}
    assert places == {(y, x) for y in range(2, 7) for x in range(2, 7)}


def test_augmentation_fields_are_checked():
    with pytest.raises(ConfigError, match="auto_augment='sand-m9'"):
        FinetuneAugment(auto_augment="sand-m9").build(P)
    for wrong in (lambda: PretrainAugment(crop_scale=(0.5, 0.2)), lambda: FinetuneAugment(erase_prob=2.0), lambda: FinetuneAugment(shift=-1)):
        with pytest.raises(ConfigError):
            wrong()


def test_augmented_sources_have_no_fetch_and_repeat_through_the_loader(folder):
    source = Augmented(ImageFolder(folder, P), FinetuneAugment().build(P))
    assert not hasattr(source, "fetch") and len(source.take([1, 2])) == 2 and isinstance(source, Source)
    first = next(batches(source, 4, seed=0, first=0, steps=1, workers=0))
    again = next(batches(source, 4, seed=0, first=0, steps=1, workers=2))  # other processes, same numbers
    torch.testing.assert_close(first["image"], again["image"], atol=0, rtol=0)
    assert first["image"].shape == (4, 3, 8, 8) and first["label"].shape == (4,)


# --- the built-in sets ---


def test_digits():
    train, test = built_in("digits", "train", GREY), built_in("digits", "test", GREY)
    assert (len(train), len(test)) == (1297, 500) and train.classes == tuple("0123456789")
    assert train.images.amax() == 255 and (test.labels.bincount() >= 48).all()
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)
    facts = train.describe()
    assert "Alpaydin" in facts["source"] and facts["licence"] == "CC BY 4.0" and facts["classes"] == 10
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        built_in("digit", "train", GREY)


def test_scenes_are_repeatable_and_as_configured():
    images = digits.load_digits("train")[0][:50]
    config = digits.SceneConfig(canvas=24, fragments=2)
    scenes = digits.render_digit_scenes(images, 3, config, views=2)
    assert scenes.shape == (100, 24, 24) and scenes.dtype == torch.uint8
    assert torch.equal(scenes, digits.render_digit_scenes(images, 3, config, views=2))
    assert torch.equal(scenes[:50], digits.render_digit_scenes(images, 3, config))
    assert not torch.equal(scenes[:50], scenes[50:])
    assert not torch.equal(scenes, digits.render_digit_scenes(images, 4, config, views=2))


def test_a_scene_without_any_change_is_the_enlarged_digit():
    images = digits.load_digits("train")[0][:20]
    still = digits.SceneConfig(canvas=32, digit_size=(32.0, 32.0), travel=0.0, rotation=0.0, fragments=0, brightness=1.0, noise=0.0)
    expected = (torch.nn.functional.interpolate(images[:, None], size=32, mode="bicubic").clamp(0, 1)[:, 0] * 255).round()
    assert (digits.render_digit_scenes(images, 0, still).float() - expected).abs().max() <= 1


def test_digits_stay_inside_and_turn():
    one = torch.ones(200, 8, 8)
    config = digits.SceneConfig(canvas=20, digit_size=(6.0, 8.0), travel=6.0, rotation=0.0, fragments=0, brightness=1.0, noise=0.0)
    area = (digits.render_digit_scenes(one, 0, config).float() / 255).sum(dim=(1, 2))
    assert area.min() > 33 and area.max() < 66  # 6 x 6 to 8 x 8 pixels, never cut off
    turned = digits.SceneConfig(canvas=20, digit_size=(8.0, 8.0), travel=0.0, rotation=45.0, fragments=0, brightness=1.0, noise=0.0)
    width = (digits.render_digit_scenes(one, 0, turned) > 127).any(dim=1).sum(dim=1)
    assert width.min() <= 9 and width.max() >= 10


def test_scene_config_is_checked():
    for wrong in (dict(digit_size=(9.0, 3.0)), dict(fragment_size=9), dict(views=0), dict(noise=-1.0)):
        with pytest.raises(ConfigError, match="scenes"):
            digits.SceneConfig(**wrong)


# --- the config ---


def test_config_on_the_built_in_scenes():
    config = UnlabelledImages("digits-cluttered", augment=PretrainAugment.none())
    p = ImagePreprocess.default(config.scenes.canvas, 1)
    source = config.build(p)
    assert len(source) == 1297 * config.scenes.views and source.labels is None
    assert set(source.fetch([0, 1])) == {"image"}
    labelled = LabelledImages("digits-cluttered", per_class=10, augment=FinetuneAugment.none())
    train, test = labelled.build(p)
    assert train.labels.bincount().tolist() == [10] * 10 and len(test) == 500 * config.scenes.test_views
    assert sum(len(b["label"]) for b in ordered_batches(test, 256)) == len(test)
    assert from_dict(LabelledImages, to_dict(labelled)) == labelled
    with pytest.raises(ConfigError, match="data.scenes changes only"):
        LabelledImages("digits", digits.SceneConfig(noise=0.1))


def test_config_on_a_folder(folder):
    assert len(UnlabelledImages(str(folder)).build(P)) == 12
    train, test = LabelledImages(str(folder), test_fraction=0.5).build(P)
    assert (len(train), len(test)) == (6, 6) and train.classes == test.classes
    assert not hasattr(train, "fetch") and not torch.equal(train[0]["image"], test[0]["image"])


@pytest.mark.parametrize("name", ["val", "valid", "validation", "test"])
def test_config_finds_train_and_test_folders(tmp_path, folder, name):
    root = tmp_path / "set"
    root.mkdir()
    folder.rename(root / "train")
    write(root / name / "dog" / "0.png")
    config = LabelledImages(str(root))
    train, test = config.build_plain(P)
    assert (len(train), len(test)) == (12, 1) and test.labels.tolist() == [1]
    assert train.name == test.name == "set"
    assert len(UnlabelledImages(str(root)).build(P)) == 12
    write(root / name / "fox" / "0.png")
    with pytest.raises(DataError, match=r"fox.*not among the known ones: cat, dog"):
        config.build_plain(P)


def test_config_mistakes(tmp_path, folder):
    with pytest.raises(ConfigError, match="Say which images"):
        UnlabelledImages().build(P)
    with pytest.raises(DataError, match="digit does not exist. Did you mean 'digits'"):
        LabelledImages("digit").build(P)
    with pytest.raises(DataError, match="elsewhere does not exist"):
        LabelledImages(str(folder), test_path=str(tmp_path / "elsewhere")).build_plain(P)
    with pytest.raises(ConfigError, match="test_fraction"):
        LabelledImages(test_fraction=1.0)
    write(tmp_path / "odd" / "training" / "0.png")
    write(tmp_path / "odd" / "val" / "0.png")
    with pytest.raises(DataError, match="has a folder 'val' but no 'train'"):
        UnlabelledImages(str(tmp_path / "odd")).build(P)


def test_pixel_statistics():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1).expand(2, 8, 8)
    assert pixel_statistics(ImageArray(images, GREY)) == ((0.5,), (pytest.approx(0.502, abs=1e-3),))


def test_shift_of_an_array_is_a_shift():
    preprocess = ImagePreprocess(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,), crop_pct=1.0)
    train, test = LabelledImages("digits", augment=replace(FinetuneAugment.none(), shift=2)).build(preprocess)
    assert train.shift == 2 and test.shift == 0
    still, moved = train.fetch([3, 3, 4])["image"], train.fetch([3, 3, 4], sample_keys(0, [(0, 3), (1, 3), (0, 4)]))["image"]
    assert still[0].equal(still[1]) and still[0].equal(train[3]["image"])
    for a, b in zip(still, moved):
        padded = torch.nn.functional.pad(a, (2, 2, 2, 2))
        assert any(b.equal(padded[:, y : y + 8, x : x + 8]) for y in range(5) for x in range(5))


def test_one_draw_crop_covers_what_it_should():
    transform = FinetuneAugment.probe().build(ImagePreprocess.default(16, 3))
    torch.manual_seed(0)
    picture = Image.fromarray((np.indices((40, 200)).sum(0)[..., None].repeat(3, 2) % 256).astype(np.uint8))
    for _ in range(50):  # the clipping matters for long pictures
        crop = transform.one_draw(picture)
        assert crop.size == (16, 16)
    assert transform(picture).shape == (3, 16, 16)


# --- pictures that cannot be read ---


def test_unreadable_pictures_stop_are_skipped_or_left_out(folder, tmp_path):
    (folder / "cat" / "2.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(DataError, match=r"cat.2\.png begins like an image"):
        UnlabelledImages(str(folder)).build(P)
    for make in (UnlabelledImages, LabelledImages):
        made = make(str(folder), on_error="skip", max_errors=1).build(P)
        source = made[0] if isinstance(made, tuple) else made
        assert len(list(batches(source, 4, 0, 0, 6, 0))) == 6 and len(source) in (10, 12)
    write_quarantine(tmp_path / "bad.txt", {"cat/2.png": "damaged"})
    source = UnlabelledImages(str(folder), exclude=str(tmp_path / "bad.txt"), augment=PretrainAugment.none()).build(P)
    assert len(source) == 11 and os.path.join("cat", "2.png") not in source.files
    write_quarantine(tmp_path / "other.txt", {"fish/2.png": "damaged"})
    with pytest.raises(DataError, match="list of other data"):
        UnlabelledImages(str(folder), exclude=str(tmp_path / "other.txt")).build(P)


def test_what_is_left_out_is_named_from_the_folder_that_is_given(folder, tmp_path):
    root = tmp_path / "set"
    for part in ("train", "val"):
        shutil.copytree(folder, root / part)
        (root / part / "dog" / "deep" / "1.JPG").write_bytes(b"")
    write_quarantine(tmp_path / "bad.txt", {"train/dog/deep/1.JPG": "empty"})
    with pytest.raises(DataError, match=r"val.dog.deep.1\.JPG is empty"):
        LabelledImages(str(root), exclude=str(tmp_path / "bad.txt")).build(P)
    train, test = LabelledImages(str(root), exclude=str(tmp_path / "bad.txt"), on_error="skip").build(P)
    assert len(train) == 11 and len(test) == 12 and train.held_out is test and test.skipped == 0
    assert len(list(ordered_batches(test, 4))) == 3 and test.skipped == 1


def test_fields_for_files_are_refused_for_built_in_sets():
    for fields in ({"on_error": "skip"}, {"exclude": "bad.txt"}):
        with pytest.raises(ConfigError, match="are for files"):
            UnlabelledImages("digits", **fields)
    with pytest.raises(ConfigError, match="on_error skip"):
        LabelledImages("pictures", max_errors=3)
