import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_jax import data
from resnet_jax.data.images.decode import MAX_PIXELS, decode_image, open_image
from tests.data.tfds_files import encode, make_tfds_dataset


def random_image(seed, height, width, channels):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def smooth(height=40, width=56):
    """A colour picture with soft edges, as JPEG has it best."""
    small = Image.fromarray(random_image(5, 7, 9, 3))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def saved(picture, encoding, **options):
    buffer = io.BytesIO()
    picture.save(buffer, encoding, **options)
    return buffer.getvalue()


def chunk(kind, content):
    """One chunk of a PNG."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width, height, depth, colour_type, rows):
    """A PNG written by hand: for what Pillow reads and does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = b"".join(b"\0" + row for row in rows)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


def cmyk(inverted):
    """A CMYK JPEG; Adobe's programs write theirs inverted and say so in an APP14 segment."""
    file = saved(smooth().convert("CMYK"), "jpeg", quality=90)
    start = file.index(b"\xff\xee\x00\x0eAdobe")  # Pillow writes them so.
    return file if inverted else file[:start] + file[start + 16 :]


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def two_pictures():
    return saved(smooth(), "gif", save_all=True, append_images=[smooth().rotate(90)])


KINDS = {
    "baseline JPEG": lambda: saved(smooth(), "jpeg", quality=85),
    "progressive JPEG": lambda: saved(smooth(), "jpeg", progressive=True),
    "JPEG, chroma not subsampled": lambda: saved(smooth(), "jpeg", subsampling=0),
    "JPEG, restart markers": lambda: saved(smooth(), "jpeg", restart_marker_blocks=2),
    "JPEG in RGB": lambda: saved(smooth(), "jpeg", keep_rgb=True),
    "JPEG with data after its end": lambda: saved(smooth(), "jpeg") + b"more" * 40,
    "grey JPEG": lambda: saved(smooth().convert("L"), "jpeg"),
    "CMYK JPEG": lambda: cmyk(inverted=False),
    "CMYK JPEG, inverted as Adobe's": lambda: cmyk(inverted=True),
    "JPEG turned by EXIF": lambda: saved(smooth(), "jpeg", exif=exif(6)),
    "PNG": lambda: saved(smooth(), "png"),
    "grey PNG": lambda: saved(smooth().convert("L"), "png"),
    "grey and alpha PNG": lambda: saved(smooth().convert("LA"), "png"),
    "RGBA PNG": lambda: saved(Image.fromarray(random_image(6, 9, 8, 4)), "png"),
    "palette PNG": lambda: saved(smooth().convert("P", palette=1, colors=64), "png"),
    "palette PNG, one colour transparent": lambda: saved(
        smooth().convert("P", palette=1, colors=64), "png", transparency=3
    ),
    "palette PNG, alpha for each colour": lambda: saved(
        smooth().convert("P", palette=1, colors=4), "png", transparency=b"\0\x80\xff\x20"
    ),
    "RGB PNG, one colour transparent": lambda: saved(smooth(), "png", transparency=(1, 2, 3)),
    "1-bit PNG": lambda: saved(smooth().convert("1"), "png"),
    "16-bit grey PNG": lambda: saved(
        Image.fromarray(np.arange(60, dtype=np.uint16).reshape(6, 10) * 1000), "png"
    ),
    "16-bit RGB PNG": lambda: png(3, 2, 16, 2, [struct.pack(">9H", *range(1000, 64000, 7000))] * 2),
    "16-bit TIFF": lambda: saved(
        Image.fromarray(np.arange(60, dtype=np.uint16).reshape(6, 10) * 5), "tiff"
    ),
    "CMYK TIFF": lambda: saved(smooth().convert("CMYK"), "tiff"),
    "GIF of two pictures": two_pictures,
    "BMP": lambda: saved(smooth(), "bmp"),
    "WebP": lambda: saved(smooth(), "webp", lossless=True),
    "PPM": lambda: saved(smooth(), "ppm"),
}


def default_loader(file, mode):
    """torchvision's default loader: `Image.open(path).convert("RGB")`."""
    with io.BytesIO(file) as stream:
        return np.asarray(Image.open(stream).convert(mode))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")  # The reference.
def test_every_kind_is_what_torchvision_makes_of_it(kind):
    file = KINDS[kind]()
    colour = decode_image(file, 3)
    assert colour.dtype == np.uint8
    np.testing.assert_array_equal(colour, default_loader(file, "RGB"), strict=True)
    grey = decode_image(file, 1)
    np.testing.assert_array_equal(grey[:, :, 0], default_loader(file, "L"), strict=True)
    assert colour.std() > 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_passes_through_training_and_evaluation(kind, tmp_path):
    """A PNG in a file called .JPEG, and all others, from a folder; without a warning."""
    directory = tmp_path / "train" / "class"
    directory.mkdir(parents=True)
    (directory / "1.JPEG").write_bytes(KINDS[kind]())
    # A large one beside it, so that both are decoded where they are used.
    (directory / "2.JPEG").write_bytes(saved(smooth(200, 150), "jpeg"))
    source = data.open_source(str(tmp_path), "train")
    assert isinstance(source, data.FolderSource)
    for channels in (1, 3):
        for name in ("imagenet", "imagenet_paper"):
            transform = data.train_transform(name, 24, channels=channels)
            batch = data.train_batches(source, transform, batch_size=2, seed=0)[0]
            assert batch["image"].shape == (2, 24, 24, channels)
            (batch,) = data.eval_batches(
                source, data.eval_transform(name, 24, channels=channels), batch_size=2
            )
            assert batch["image"].shape == (2, 24, 24, channels) and batch["mask"].all()


def test_exif_does_not_turn_an_image():
    assert decode_image(KINDS["JPEG turned by EXIF"](), 3).shape == (40, 56, 3)


def test_adobe_cmyk_is_not_inverted_twice():
    """The colours of both kinds are those of the picture, as far as CMYK keeps them."""
    picture = np.asarray(smooth().convert("CMYK").convert("RGB"), np.int32)
    colour = decode_image(KINDS["CMYK JPEG, inverted as Adobe's"](), 3)
    assert np.abs(colour - picture).mean() < 12


@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_array_come_back_unchanged(channels):
    image = random_image(0, 5, 7, channels)
    for asked in (None, channels):
        np.testing.assert_array_equal(decode_image(encode(image), asked), image)
        assert decode_image(image, asked) is image


@pytest.mark.parametrize("encoded", [False, True])
def test_grey_becomes_three_equal_channels(encoded):
    image = random_image(1, 4, 6, 1)
    colour = decode_image(encode(image) if encoded else image, 3)
    np.testing.assert_array_equal(colour, np.repeat(image, 3, axis=2))


@pytest.mark.parametrize("encoded", [False, True])
def test_colour_becomes_luma(encoded):
    image = random_image(2, 4, 6, 3)
    grey = decode_image(encode(image) if encoded else image, 1)
    luma = image @ np.array([0.299, 0.587, 0.114])
    assert grey.shape == (4, 6, 1)
    # Pillow rounds in 16-bit fixed point.
    assert np.abs(grey[:, :, 0] - luma).max() < 0.502


def test_channels_are_the_files_own_if_none_are_asked_for():
    image = random_image(3, 8, 8, 4)
    transparent = saved(Image.fromarray(image), "png")
    np.testing.assert_array_equal(decode_image(transparent), image[:, :, :3])
    np.testing.assert_array_equal(decode_image(transparent, 4), image)
    assert decode_image(KINDS["palette PNG"]()).shape[2] == 3
    for kind in ("grey JPEG", "grey and alpha PNG", "1-bit PNG", "16-bit grey PNG"):
        assert decode_image(KINDS[kind]()).shape[2] == 1


def claims(height, width, encoding):
    """A small file whose header claims another size."""
    if encoding == "png":
        return png(width, height, 8, 2, [b"\0" * 300])
    file = bytearray(saved(smooth(), "jpeg"))
    place = file.index(b"\xff\xc0") + 5
    file[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(file)


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_a_huge_image_is_refused_before_memory_is_taken(encoding, decode):
    file = claims(60_000, 60_000, encoding)
    transform = data.train_transform("imagenet", 224, channels=3, fast=decode == "fast")
    uniforms = np.full(23, 0.5)
    before = resident_memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak.
    with pytest.raises(OSError, match="it has (60000x60000|more pixels than)"):
        transform(file, uniforms)
    assert resident_memory("VmHWM") - before < 2**24


def resident_memory(which):
    """Bytes of this process that are in memory, whatever library took them."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{which}:\s+(\d+) kB", status)[1])


def test_a_thin_image_is_not_blown_up():
    """A million pixels, of which 256 times 256 million would be made."""
    thin = saved(Image.new("L", (1_000_000, 1)), "png")
    for channels in (1, 3):
        transform = data.eval_transform("imagenet", 224, channels=channels)
        with pytest.raises(OSError, match="it has 256000000x256 pixels, more than the"):
            transform(thin)


def test_the_limit_is_ours_whatever_pillows_is(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    side = int(MAX_PIXELS**0.5) + 1
    with pytest.raises(
        OSError, match=f"has {side}x{side} pixels, more than the limit of {MAX_PIXELS}"
    ):
        open_image(claims(side, side, "png"))


@pytest.mark.parametrize(
    "file",
    [b"", b"no image", encode(random_image(4, 64, 64, 3))[:-500], b"GIF89a", b"\xff\xd8\xff\xe0"],
)
def test_what_is_no_image_raises(file):
    with pytest.raises(OSError, match="^it (is not an image|cannot be decoded)"):
        open_image(file)
    with pytest.raises(OSError, match="^it (is not an image|cannot be decoded)"):
        data.train_transform("imagenet", 8, channels=3)(file, np.full(23, 0.5))


def test_a_bad_file_is_named_by_the_data_sets_own_name(tmp_path):
    directory = make_tfds_dataset(tmp_path, "torn", [b"no image"], [0], "jpeg", num_shards=1)
    assert directory.is_dir()
    source = data.open_source("torn", "train", tmp_path)
    assert source.describe(0) == ""
    batches = data.train_batches(source, data.train_transform("imagenet", 8), batch_size=1, seed=0)
    with pytest.raises(data.DataError, match=r"image 0 of split 'train' of 'torn' .*not an image"):
        batches[0]
