"""Where raw data come from: torchvision's layouts, Tiny ImageNet, archives and downloads."""

import gzip
import hashlib
import pickle
import shutil
import stat
import struct
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fss_core import data
from fss_core.data import downloads, sources
from fss_core.data.raw import decode_image
from fss_core.specs import DataError

NOWHERE = "http://127.0.0.1:1/"
"""A port that refuses connections."""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The data directory, beside a cache of the test's own."""
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FSS_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# MNIST ----------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def mnist_files(root, monkeypatch) -> dict[str, np.ndarray]:
    """A small MNIST with unequal classes, whose MD5 are taken for the right ones."""
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, number in (("train", 60), ("t10k", 131)):
        arrays[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = rng.permutation((np.arange(number) % 13) % 10).astype(np.uint8)
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx(array))
        monkeypatch.setitem(sources.MNIST_MD5, name, md5(idx(array)))
    return arrays


def test_mnist_is_read_from_its_idx_files(mnist_files):
    mnist = data.load_dataset("mnist")
    assert (mnist.title, mnist.class_names, mnist.image_shape) == ("MNIST", tuple("0123456789"), (1, 28, 28))
    np.testing.assert_array_equal(mnist.train.images[:, 0], mnist_files["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(mnist.train.labels, mnist_files["train-labels-idx1-ubyte"])
    test_images, test_labels = mnist_files["t10k-images-idx3-ubyte"], mnist_files["t10k-labels-idx1-ubyte"]
    label_of = {image.tobytes(): label for image, label in zip(test_images, test_labels, strict=True)}
    for split in (mnist.calibration, mnist.probe, mnist.report):
        assert [label_of.pop(image.tobytes()) for image in split.images] == split.labels.tolist()
    assert label_of == {}
    assert data.verify_dataset("mnist").num_images == 191


@pytest.mark.parametrize("verb", [data.load_dataset, data.dataset_card, data.verify_dataset])
def test_a_broken_idx_file_is_named(root, mnist_files, verb):
    data.load_dataset("mnist")
    path = root / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\x09")
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte is broken: .*fetch mnist`, or use .* mnist5k"
    ) as caught:
        verb("mnist")
    assert "\n" not in str(caught.value)


def test_a_forgotten_processed_folder_is_not_read(root, mnist_files):
    processed = root / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"anything")
    assert data.load_dataset("mnist").title == "MNIST"


# CIFAR10 --------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar_files(root, monkeypatch) -> dict[str, np.ndarray]:
    """A small CIFAR10 in pickled batches, whose MD5 are taken for the right ones."""
    from torchvision.datasets import CIFAR10

    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)

    def batch(name: str, number: int) -> tuple[str, str]:
        images = rng.integers(0, 256, (number, 3, 32, 32), dtype=np.uint8)
        entry = {"data": images.reshape(number, -1), "labels": [int(i) % 10 for i in range(number)]}
        (folder / name).write_bytes(pickle.dumps(entry))
        arrays[name] = images
        return name, md5((folder / name).read_bytes())

    arrays: dict[str, np.ndarray] = {}
    monkeypatch.setattr(CIFAR10, "train_list", [batch(f"data_batch_{i}", 20) for i in range(1, 6)])
    monkeypatch.setattr(CIFAR10, "test_list", [batch("test_batch", 100)])
    names = pickle.dumps({"label_names": [f"class{i}" for i in range(10)]})
    (folder / "batches.meta").write_bytes(names)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5(names)})
    return arrays


def test_cifar10_is_read_from_its_batches_before_an_image_folder(root, cifar_files, make_image_folder):
    make_image_folder(root / "cifar10")
    cifar = data.load_dataset("cifar10")
    assert (cifar.title, cifar.class_names[3], cifar.image_shape) == ("CIFAR10", "class3", (3, 32, 32))
    expected = np.concatenate([cifar_files[f"data_batch_{i}"] for i in range(1, 6)])
    np.testing.assert_array_equal(cifar.train.images, expected)
    assert cifar.train.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_strange_pickle_is_named_and_not_run(root, cifar_files, tmp_path, name):
    trap = tmp_path / "sprung"
    (root / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Trap(trap)))
    with pytest.raises(DataError, match=rf"{name} is broken: its MD5 must be"):
        data.load_dataset("cifar10")
    assert not trap.exists()


@pytest.mark.parametrize(("suffix", "words"), [("png", "image folder"), ("jpg", "JPEG")])
def test_an_image_folder_stands_in_and_says_so(root, make_image_folder, suffix, words):
    make_image_folder(root / "cifar10", suffix=suffix)
    card = data.dataset_card("cifar10")
    assert (card.name, card.title) == ("cifar10", f"CIFAR10 ({words})")


# Tiny ImageNet --------------------------------------------------------------------------------------------

NUM_CLASSES, NUM_VAL = 22, 10


def jpeg(grey: int, mode: str = "RGB") -> bytes:
    buffer = BytesIO()
    Image.new("L", (64, 64), grey).convert(mode).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def tiny_imagenet_files() -> dict[str, bytes]:
    """A small Tiny ImageNet of 22 classes, two training images each; class k is of grey level 10 k, some JPEGs grey."""
    wnids = [f"n{7 * k % NUM_CLASSES:08}" for k in range(NUM_CLASSES)]
    words = {wnid: f"thing {wnid[-2:]}, stuff" for wnid in wnids} | {wnids[1]: "crane", wnids[2]: "crane"}
    del words[wnids[3]]
    files = {
        "wnids.txt": "\n".join(wnids).encode(),
        "words.txt": "\n".join(f"{wnid}\t{text}" for wnid, text in words.items()).encode(),
    }
    rows = []
    for k, wnid in enumerate(wnids):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"no image"
        for i in range(2):
            files[f"train/{wnid}/images/{wnid}_{i}.JPEG"] = jpeg(10 * k, "L" if i else "RGB")
        for i in range(NUM_VAL):
            # Named against the order of the classes: only the annotations tell the label.
            name = f"val_{(NUM_CLASSES - k) * NUM_VAL + i}.JPEG"
            files[f"val/images/{name}"] = jpeg(10 * k)
            rows.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    files["val/val_annotations.txt"] = "".join(rows).encode()
    return files


def write_zip(path: Path, files: dict[str, bytes], prefix: str = "tiny-imagenet-200/") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(prefix + name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_tiny_imagenet_in_its_official_layout(root, zipped):
    files = tiny_imagenet_files()
    if zipped:
        write_zip(root / "tiny-imagenet-200-part.zip", files)
    else:
        write_folder(root / "tiny-imagenet-200", files)
    tiny = data.load_dataset("tiny-imagenet-20")
    assert tiny.title == "Tiny ImageNet, first 20 classes (40 of 10,000 training images)"
    assert tiny.card.split_sizes == {"train": 40, "calibration": 20, "probe": 80, "report": 100}
    assert tiny.class_names[:5] == ("thing 00", "n00000007", "n00000014", "n00000021", "thing 06")
    assert tiny.image_shape == (3, 64, 64)
    assert tiny.train.labels.tolist() == [k for k in range(20) for _ in range(2)]
    for split in (tiny.train, tiny.calibration, tiny.probe, tiny.report):
        levels = np.asarray(split.images, dtype=np.int64)
        assert np.abs(levels - 10 * split.labels[:, None, None, None]).max() <= 2
    assert data.verify_dataset("tiny-imagenet-20").num_images == 240


def test_tiny_imagenet_zipped_or_not_is_the_same(root):
    files = tiny_imagenet_files()
    archive = write_zip(root / "tiny-imagenet-200-part.zip", files)
    zipped = data.dataset_card("tiny-imagenet-20").fingerprints
    archive.unlink()
    write_folder(root / "tiny-imagenet-200", files)
    assert data.dataset_card("tiny-imagenet-20").fingerprints == zipped


def test_tiny_imagenet_without_all_its_classes_is_refused(root):
    write_zip(root / "tiny-imagenet-200.zip", tiny_imagenet_files())
    with pytest.raises(DataError, match=r"lacks classes: all 200 must be in wnids.txt and in train/"):
        data.load_dataset("tiny-imagenet")


def test_an_archive_damaged_inside_names_the_member(root):
    files = tiny_imagenet_files()
    path = write_zip(root / "tiny-imagenet-200.zip", files)
    victim = files["val/images/val_215.JPEG"]
    content = path.read_bytes()
    path.write_bytes(content.replace(victim, victim[:-1] + b"\x00"))
    with pytest.raises(DataError, match=r"tiny-imagenet-200\.zip: member .*\.JPEG cannot be read \(Bad CRC-32"):
        data.load_dataset("tiny-imagenet-20")


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_archive_is_named(root, content):
    (root / "tiny-imagenet-200.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"tiny-imagenet-200\.zip is not a readable zip archive"):
        data.load_dataset("tiny-imagenet-20")


def test_an_archive_of_something_else_is_named(root):
    write_zip(root / "tiny-imagenet-200.zip", {"a.txt": b"a", "__MACOSX/._wnids.txt": b""})
    with pytest.raises(DataError, match=r"it holds no wnids\.txt"):
        data.load_dataset("tiny-imagenet-20")


# Archives -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "absolute path"),
        ("C:/windows/x", "absolute path"),
        ("\\\\server\\x", "absolute path"),
        ("a/../../x", r"leaves the archive with '\.\.'"),
        ("..\\x", r"leaves the archive with '\.\.'"),
        ("..", r"leaves the archive with '\.\.'"),
    ],
)
def test_members_that_would_leave_the_archive_are_refused(tmp_path, name, reason):
    path = write_zip(tmp_path / "bad.zip", {"good.txt": b"", name: b"x"}, prefix="")
    with pytest.raises(DataError, match=rf"bad\.zip is refused: member .* {reason}"):
        downloads.open_archive(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path, kind):
    member = zipfile.ZipInfo("link")
    member.create_system = 3
    member.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="member 'link' is a link or a device"):
        downloads.open_archive(tmp_path / "bad.zip")


def test_members_larger_than_the_limit_are_refused(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "big.zip", {"big": bytes(2**20 + 1)}, prefix="")
    downloads.open_archive(path).close()
    monkeypatch.setattr(downloads, "MAX_MEMBER_BYTES", 2**20)
    with pytest.raises(DataError, match="member 'big' is larger than 1 MiB"):
        downloads.open_archive(path)


def test_a_bad_archive_is_refused_before_anything_is_written(root, tmp_path):
    write_zip(root / "tiny-imagenet-200.zip", tiny_imagenet_files() | {"../../evil": b"x"})
    with pytest.raises(DataError, match="is refused"):
        data.load_dataset("tiny-imagenet-20")
    assert sorted(path.name for path in root.iterdir()) == ["tiny-imagenet-200.zip"]
    assert not any(tmp_path.glob("cache/prepared/*"))


def test_well_formed_archives_are_opened(tmp_path):
    path = write_zip(tmp_path / "good.zip", {"a..b/c": b"x", "folder/": b"", "d": b"y"}, prefix="")
    with downloads.open_archive(path) as archive:
        assert archive.namelist() == ["a..b/c", "folder/", "d"]


# Images ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGB", "RGBA"])
def test_images_of_any_mode_become_rgb(mode):
    buffer = BytesIO()
    image = Image.new("L", (3, 2), 255).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(256)
    image.save(buffer, "PNG")
    buffer.seek(0)
    pixels = decode_image(buffer, "it", (3, 2, 3))
    assert (pixels.shape, pixels.dtype) == ((3, 2, 3), np.uint8)
    assert (pixels == 255).all()


def test_formats_that_start_other_programs_are_not_read():
    with pytest.raises(DataError, match="it is not a readable image"):
        decode_image(BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 3 2\n"), "it", (3, 2, 3))


# Fetching -------------------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch):
    """Every download is refused at once."""
    from torchvision.datasets import CIFAR10, MNIST

    monkeypatch.setattr(MNIST, "mirrors", [NOWHERE])
    monkeypatch.setattr(CIFAR10, "url", f"{NOWHERE}cifar-10-python.tar.gz")
    monkeypatch.setattr(downloads, "TINY_IMAGENET_URL", f"{NOWHERE}tiny-imagenet-200.zip")


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("mnist", r"place the four \*-ubyte files by hand in {root}/MNIST/raw"),
        ("cifar10", r"place the files of cifar-10-python\.tar\.gz by hand in {root}/cifar-10-batches-py"),
        ("tiny-imagenet", r"place tiny-imagenet-200\.zip by hand in {root}"),
        ("tiny-imagenet-20", r"place tiny-imagenet-200\.zip by hand in {root}"),
    ],
)
def test_fetching_offline_says_how_to_do_without(root, offline, name, by_hand):
    expected = by_hand.format(root=root) + ", or use the embedded data set mnist5k$"
    with pytest.raises(DataError, match=expected) as caught:
        data.fetch_dataset(name)
    assert str(caught.value).startswith(f"data set {name!r} could not be fetched (")
    assert "\n" not in str(caught.value)
    assert list(root.iterdir()) == []


def test_nothing_is_fetched_that_is_there(root, offline, mnist_files, cifar_files, tmp_path, make_image_folder):
    assert data.fetch_dataset("mnist5k").title == "MNIST (5,000 digits)"
    assert data.fetch_dataset("mnist").title == "MNIST"
    assert data.fetch_dataset("cifar10").title == "CIFAR10"
    data.register_folder("pets", make_image_folder(tmp_path / "pets"))
    assert data.fetch_dataset("pets").name == "pets"


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, Path]]:
    """A web server on this machine: its address, and the folder it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/", folder
        httpd.shutdown()
        thread.join()


def test_tiny_imagenet_is_fetched_checked_and_used(root, server, monkeypatch, capsys):
    url, folder = server
    archive = write_zip(folder / "tiny-imagenet-200.zip", tiny_imagenet_files())
    monkeypatch.setattr(downloads, "TINY_IMAGENET_URL", f"{url}tiny-imagenet-200.zip")
    monkeypatch.setattr(downloads, "TINY_IMAGENET_MD5", md5(archive.read_bytes()))
    assert data.fetch_dataset("tiny-imagenet-20").split_sizes["probe"] == 80
    assert (root / "tiny-imagenet-200.zip").read_bytes() == archive.read_bytes()
    assert [path.name for path in root.iterdir()] == ["tiny-imagenet-200.zip"]
    shown = capsys.readouterr()
    assert "100%" in shown.err
    assert shown.out == ""


def test_progress_replaces_the_bar(tmp_path, server, capsys):
    url, folder = server
    (folder / "file").write_bytes(bytes(3 * downloads.CHUNK_BYTES))
    seen = []
    downloads.download(f"{url}file", tmp_path / "got", progress=lambda done, total: seen.append((done, total)))
    total = 3 * downloads.CHUNK_BYTES
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert (tmp_path / "got").read_bytes() == bytes(total)
    assert capsys.readouterr().err == ""


def test_a_wrong_checksum_keeps_the_file_out(root, server, monkeypatch):
    url, folder = server
    write_zip(folder / "tiny-imagenet-200.zip", tiny_imagenet_files())
    monkeypatch.setattr(downloads, "TINY_IMAGENET_URL", f"{url}tiny-imagenet-200.zip")
    with pytest.raises(
        DataError, match=r"tiny-imagenet-200\.zip: its MD5 must be 90528d7ca1a48142e341f4ef8d21d0de, is "
    ):
        data.fetch_dataset("tiny-imagenet")
    assert list(root.iterdir()) == []


def test_a_connection_that_breaks_keeps_the_file_out(root, monkeypatch):
    class Broken(BytesIO):
        headers = {"Content-Length": "1000"}  # noqa: RUF012

    monkeypatch.setattr(downloads, "urlopen", lambda request, timeout: Broken(bytes(10)))
    with pytest.raises(DataError, match="the connection broke after 10 of 1,000 bytes"):
        data.fetch_dataset("tiny-imagenet")
    assert list(root.iterdir()) == []


def test_mnist_is_fetched_in_the_place_of_a_broken_file(root, server, mnist_files, monkeypatch):
    from torchvision.datasets import MNIST

    url, folder = server
    resources = []
    for name, array in mnist_files.items():
        content = gzip.compress(idx(array), mtime=0)
        (folder / f"{name}.gz").write_bytes(content)
        resources.append((f"{name}.gz", md5(content)))
    monkeypatch.setattr(MNIST, "mirrors", [url])
    monkeypatch.setattr(MNIST, "resources", resources)
    expected = data.dataset_card("mnist")
    broken = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
    broken.write_bytes(b"broken")
    assert data.fetch_dataset("mnist") == expected
    assert sorted(path.name for path in broken.parent.iterdir()) == sorted(mnist_files)
    shutil.rmtree(root / "MNIST")
    assert data.fetch_dataset("mnist") == expected
