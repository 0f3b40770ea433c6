import datetime
import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading

import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.data.prepare import archives, prepare
from tests.data.prepare import archive_files


def quiet(what, done, total):
    pass


# Pickles.


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "content",
    [
        {b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [1, 2], b"name": b"x"},
        {b"a": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)), b"b": "text"},
        [1, 2.5, True, None, b"\xff\x00", "ä", {b"k": [b"v"]}, np.zeros((0, 3), np.float32)],
    ],
)
def test_arrays_and_plain_values_are_read(content, protocol):
    read = archives.unpickle(pickle.dumps(content, protocol), "x")
    if isinstance(content, dict):
        assert read.keys() == content.keys()
        content, read = list(content.values()), list(read.values())
    for one, other in zip(content, read, strict=True):
        np.testing.assert_array_equal(other, one, strict=isinstance(one, np.ndarray))
        assert type(one) is type(other)


def test_pickles_of_python_2_are_read():
    """As the archives were written: text is bytes, NumPy's modules have their old names."""
    pickled = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x01K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01"
        b"\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03\x07\x08\xffq"
        b"\x08tbU\x06labelsq\t]q\n(K\x03K\x04eu."
    )
    read = archives.unpickle(pickled, "x")
    assert read.keys() == {b"data", b"labels"} and read[b"labels"] == [3, 4]
    np.testing.assert_array_equal(read[b"data"], np.array([[7, 8, 255]], np.uint8), strict=True)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "content",
    [
        Malicious(os.system, "touch {path}"),
        Malicious(eval, "open({path!r}, 'w')"),
        Malicious(exec, "open({path!r}, 'w')"),
        Malicious(open, "{path}", "w"),
        Malicious(np.fromfile, "{path}"),
        Malicious(np.load, "{path}", None, True),
        Malicious(getattr, np, "fromfile"),
        Malicious(__import__, "os"),
        datetime.date(2015, 12, 10),
        np.array([Malicious(os.system, "touch {path}")], dtype=object),
        {b"data": [Malicious(os.system, "touch {path}")]},
        1j,
    ],
)
def test_no_pickle_executes_anything(tmp_path, content, protocol):
    path = tmp_path / "executed"
    for part in content if isinstance(content, np.ndarray) else [content]:
        if isinstance(part, Malicious):
            part.arguments = tuple(
                argument.replace("{path!r}", repr(str(path))).replace("{path}", str(path))
                if isinstance(argument, str)
                else argument
                for argument in part.arguments
            )
    if isinstance(content, Malicious) and content.function is getattr:
        content.arguments = (archive_files.CLASSES_OF_CIFAR, "append")
    pickled = pickle.dumps(content, protocol)
    with pytest.raises(data.DataError, match="x cannot be read .*; fetch the archive again"):
        archives.unpickle(pickled, "x")
    assert not path.exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80",
        b"no pickle",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntS'b'\ntR.",
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"c_codecs\nencode\n(Vx\nS'rot13'\ntR.",
        b"Pwhatever\n.",
    ],
)
def test_other_pickles_are_refused(pickled):
    with pytest.raises(data.DataError, match="x cannot be read"):
        archives.unpickle(pickled, "x")


def test_a_malicious_archive_writes_nothing(tmp_path):
    path = tmp_path / "executed"
    batch = pickle.dumps({b"data": Malicious(os.system, f"touch {path}")}, 2)
    archive_files.make_cifar10(tmp_path)
    content = gzip.decompress((tmp_path / "cifar-10-python.tar.gz").read_bytes())
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    files["cifar-10-batches-py/data_batch_3"] = batch
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        for name, file in files.items():
            archive_files.add(tar, name, file)
    with pytest.raises(data.DataError, match="data_batch_3 .* needs (posix|os).system, which is"):
        prepare("cifar10", tmp_path / "data", tmp_path, verified=False)
    assert not path.exists() and not list((tmp_path / "data").rglob("*array_record*"))


# Damaged archives.


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9])
@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "imagenet2012"])
def test_cut_archives_are_refused(tmp_path, name, kept):
    make = getattr(
        archive_files, "make_" + name.replace("2012", "").replace("fashion_", "fashion_")
    )
    make(tmp_path)
    path = {
        "cifar10": "cifar-10-python.tar.gz",
        "cifar100": "cifar-100-python.tar.gz",
        "fashion_mnist": "train-images-idx3-ubyte.gz",
        "imagenet2012": "ILSVRC2012_img_train.tar",
    }[name]
    content = (tmp_path / path).read_bytes()
    # A tar archive ends in zeros, up to ten kilobytes.
    size = len(content.rstrip(b"\0"))
    (tmp_path / path).write_bytes(content[: int(kept * size) if kept < 1 else kept])
    with pytest.raises(data.DataError, match="fetch it again|fetch the archive again"):
        prepare(name, tmp_path / "data", tmp_path, verified=False)
    assert not list((tmp_path / "data").rglob("*array_record*"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        gzip.compress(b"", mtime=0),
        gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc", mtime=0),
        gzip.compress(b"\0\0\x0d\x01\0\0\0\x01abcd", mtime=0),
        gzip.compress(b"\0\0\x08\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", mtime=0),
        b"no gzip",
    ],
)
def test_odd_idx_files_are_refused(tmp_path, content):
    (tmp_path / "x.gz").write_bytes(content)
    with pytest.raises(data.DataError, match="x.gz .*; fetch it again"):
        archives.read_idx(tmp_path / "x.gz")


def test_labels_are_checked(tmp_path):
    images, labels = archive_files.make_fashion_mnist(tmp_path)
    labels[2] = 10
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(archive_files.idx(labels[:7]))
    with pytest.raises(data.DataError, match="has labels that are not 0 to 9"):
        prepare("fashion_mnist", tmp_path / "data", tmp_path, verified=False)
    path.write_bytes(archive_files.idx(labels[:6]))
    with pytest.raises(data.DataError, match=r"\(7, 28, 28\) for labels of \(6,\)"):
        prepare("fashion_mnist", tmp_path / "data", tmp_path, verified=False)


@pytest.mark.parametrize("strange", ["n00000000.tar", "notes.txt"])
def test_strange_files_in_imagenet_are_refused(tmp_path, strange):
    archive_files.make_imagenet(tmp_path)
    with tarfile.open(tmp_path / "ILSVRC2012_img_train.tar", "a") as tar:
        archive_files.add(tar, strange, b"")
    with pytest.raises(data.DataError, match=f"ILSVRC2012_img_train.tar has a file '{strange}'"):
        prepare("imagenet2012", tmp_path / "data", tmp_path, verified=False)


# Downloads.


class Server(http.server.BaseHTTPRequestHandler):
    """Serves one file, or parts of it; breaks off after some bytes if told to."""

    content = b""
    breaks_after = None
    ranges = True
    requests: list[str | None] = []

    def do_GET(self):
        asked = self.headers.get("Range")
        self.requests.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        if start >= len(self.content) and start:
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.breaks_after])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served():
    """(handler, archive): a server on this machine and what it serves."""
    content = np.random.default_rng(0).bytes(100_000)
    handler = type("Handler", (Server,), {"content": content, "requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/file.gz"
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        yield handler, archives.Archive("file.gz", digest, url)
        server.shutdown()
        thread.join()


def test_an_archive_is_downloaded_once(tmp_path, served):
    handler, archive = served
    reports = []
    for _ in range(2):
        path = archives.download(archive, tmp_path / "d", lambda *report: reports.append(report))
        assert path == tmp_path / "d" / "file.gz" and path.read_bytes() == handler.content
    assert handler.requests == [None]
    assert ("downloading file.gz", 100_000, 100_000) in reports


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_goes_on(tmp_path, served, ranges):
    handler, archive = served
    handler.ranges, handler.breaks_after = ranges, 30_000
    with pytest.raises(data.DataError, match="broke off; re-run to resume it|cannot download"):
        archives.download(archive, tmp_path, quiet)
    assert not (tmp_path / "file.gz").exists()
    assert (tmp_path / "file.gz.part").stat().st_size == 30_000
    handler.breaks_after = None
    assert archives.download(archive, tmp_path, quiet).read_bytes() == handler.content
    assert handler.requests == [None, "bytes=30000-"]


def test_another_file_than_published_is_refused(tmp_path, served):
    handler, archive = served
    handler.content = handler.content[::-1]
    with pytest.raises(data.DataError, match="did not return the published file.gz; try again"):
        archives.download(archive, tmp_path, quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [30_000, 100_000, 200_000])
def test_a_part_of_something_else_is_dropped(tmp_path, served, size):
    handler, archive = served
    (tmp_path / "file.gz.part").write_bytes(b"x" * size)
    assert archives.download(archive, tmp_path, quiet).read_bytes() == handler.content
    assert handler.requests == [f"bytes={size}-", None]
    assert [path.name for path in tmp_path.iterdir()] == ["file.gz"]


def test_a_whole_download_that_was_not_yet_verified_is_kept(tmp_path, served):
    handler, archive = served
    (tmp_path / "file.gz.part").write_bytes(handler.content)
    assert archives.download(archive, tmp_path, quiet).read_bytes() == handler.content
    assert handler.requests == ["bytes=100000-"]


def test_without_a_network_the_remedy_is_named(tmp_path):
    archive = archives.Archive("file.gz", "sha256:00", "http://127.0.0.1:9/file.gz")
    with pytest.raises(data.DataError, match="cannot download http.*; fetch file.gz on another"):
        archives.download(archive, tmp_path, quiet)


def test_data_sets_are_downloaded_into_the_data_directory(tmp_path, served, monkeypatch):
    from resnet_jax.data.prepare import RECIPES

    handler, archive = served
    archive_files.make_cifar10(tmp_path)
    handler.content = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    digest = f"sha256:{hashlib.sha256(handler.content).hexdigest()}"
    published = archives.Archive("cifar-10-python.tar.gz", digest, archive.url)
    recipe = type(RECIPES["cifar10"])(
        (published,), RECIPES["cifar10"].make, {"train": 15, "test": 4}
    )
    monkeypatch.setitem(RECIPES, "cifar10", recipe)
    _, counts = prepare("cifar10", tmp_path / "data")
    assert counts == {"train": 15, "test": 4}
    assert (tmp_path / "data/downloads/cifar-10-python.tar.gz").is_file()
    assert len(data.open_source("cifar10", "train[:10]", tmp_path / "data")) == 10


def test_paths_that_escape_lead_nowhere(tmp_path):
    """Nothing of an archive is extracted; what is not asked for is left out."""
    source = tmp_path / "deep" / "er" / "source"
    archive_files.make_cifar10(source, extra={"../../../escaped": b"x", "/escaped": b"x"})
    prepare("cifar10", tmp_path / "data", source, verified=False)
    assert not list(tmp_path.rglob("*escaped*"))
    assert len(data.open_source("cifar10", "train", tmp_path / "data")) == 15
