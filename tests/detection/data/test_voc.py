"""VOC's XML: pixels counted from 1, difficult ones, layouts, and what is wrong with files."""

import re

import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.detection.data.opening import open_detection_source
from resnet_jax.detection.data.voc import half_open
from tests.detection.data.box_files import voc_xml, write_image, write_voc

CAT, DOG = ("cat", (1, 1, 5, 6), False), ("dog", (48, 30, 60, 40), True)
FILES = {"000007": voc_xml(CAT, DOG), "000005": voc_xml(CAT), "000012": voc_xml()}


@pytest.fixture
def folder(tmp_path):
    lists = {
        "train": ["000007", "000012"],
        "test": ["000005"],
        "cat_train": ["000007  1", "000012 -1"],
    }
    write_voc(tmp_path, FILES, lists)
    return str(tmp_path)


def test_corners_become_half_open(folder):
    source = open_detection_source(folder, "train")
    assert source.class_names == ("cat", "dog")
    assert [source.describe(index) for index in range(2)] == ["000007.jpg", "000012.jpg"]
    truth = source.truth(0)
    # Five pixels wide and six high: both ends belong to the box.
    np.testing.assert_array_equal(truth.boxes, [[0, 0, 5, 6], [47, 29, 60, 40]])
    np.testing.assert_array_equal(truth.areas, [30, 13 * 11])
    assert truth.labels.tolist() == [0, 1]
    assert truth.is_difficult.tolist() == [False, True]
    assert not truth.is_crowd.any()
    assert source.truth(1).boxes.shape == (0, 4)
    assert source.truth(0).image_id == "000007"
    assert data.notices(source) == []
    assert source.files[:2] == ("Annotations/000007.xml", "Annotations/000012.xml")


def test_a_box_of_one_pixel(tmp_path):
    """BCCD has two with xmin = xmax and ymin = ymax, which are good."""
    write_voc(tmp_path, {"a": voc_xml(("cat", (60, 40, 60, 40), False))})
    source = open_detection_source(str(tmp_path), "train")
    np.testing.assert_array_equal(source.truth(0).boxes, [[59, 39, 60, 40]])


@pytest.mark.parametrize(
    ("box", "expected"),
    [((0, 1, 5, 6), (0, 0, 5, 6)), ((0, 0, 5, 6), (0, 0, 5, 6)), ((0.5, 2, 5, 6), (0, 1, 5, 6))],
)
def test_a_minimum_of_0_is_read_as_1(tmp_path, box, expected):
    xml = voc_xml(("cat", box, False), ("cat", (1, 1, 5, 6), False))
    write_voc(tmp_path, {"a": xml, "b": voc_xml(("cat", (3, 0, 5, 6), False))})
    source = open_detection_source(str(tmp_path), "train")
    np.testing.assert_array_equal(source.truth(0).boxes[0], expected)
    (line,) = data.notices(source)
    assert "2 boxes have xmin or ymin 0 although VOC counts from 1, first in Annotations/a" in line


def test_fractions_are_kept(tmp_path):
    write_voc(tmp_path, {"a": voc_xml(("cat", (45.7, 1.25, 50.5, 6), False))})
    boxes = open_detection_source(str(tmp_path), "train").truth(0).boxes
    np.testing.assert_array_equal(boxes, np.float32([[44.7, 0.25, 50.5, 6]]))


def test_half_open_leaves_other_numbers_as_they_are():
    corners = np.array([[-3, 1, 70, 2], [np.nan, 2, 3, 4], [0, 0.5, 3, 4]])
    boxes, count = half_open(corners)
    np.testing.assert_array_equal(boxes, [[-4, 0, 70, 2], [np.nan, 1, 3, 4], [0, 0, 3, 4]])
    assert count == 1


def test_parts_of_an_object_are_no_objects(tmp_path):
    """VOC 2012 has the heads and hands of persons inside the object."""
    part = "<part><name>head</name><bndbox><xmin>2</xmin></bndbox></part>"
    write_voc(tmp_path, {"a": voc_xml(("person", (1, 1, 5, 6), False), extra=part)})
    source = open_detection_source(str(tmp_path), "train")
    assert source.class_names == ("person",)
    assert len(source.truth(0).labels) == 1


def test_splits(folder):
    assert len(open_detection_source(folder, "train+test")) == 3
    assert open_detection_source(folder, "test").class_names == ("cat", "dog")  # Of all files.
    parts = [open_detection_source(folder, f"train[{part}]+test") for part in (":50%", "50%:")]
    assert sorted(part.describe(0) for part in parts) == ["000007.jpg", "000012.jpg"]
    with pytest.raises(data.DataError, match="no split 'cat_train' .* choose from test, train, sl"):
        open_detection_source(folder, "cat_train")


def test_without_lists_all_images_are_the_training_split(tmp_path):
    write_voc(tmp_path, FILES)
    source = open_detection_source(str(tmp_path), "train")
    assert [source.describe(index) for index in range(3)] == [
        f"0000{n}.jpg" for n in ("05", "07", "12")
    ]


@pytest.mark.parametrize("folder_name", ["", "train"])
@pytest.mark.parametrize("ending", [".jpg", ".PNG"])
def test_xml_beside_the_images(tmp_path, folder_name, ending):
    for name, xml in FILES.items():
        write_image(tmp_path / folder_name / f"{name}{ending}")
        (tmp_path / folder_name / f"{name}.xml").write_text(xml)
    source = open_detection_source(str(tmp_path), "train")
    assert len(source) == 3
    assert source[1].image == (tmp_path / folder_name / f"000007{ending}").read_bytes()
    assert source.truth(1).labels.tolist() == [0, 1]


def test_the_classes_are_those_of_the_training_split(tmp_path):
    for split, name in [("train", "dog"), ("valid", "wolf")]:
        write_image(tmp_path / split / "a.jpg")
        (tmp_path / split / "a.xml").write_text(voc_xml((name, (1, 1, 5, 6), False)))
    assert open_detection_source(str(tmp_path), "train").class_names == ("dog",)
    message = "valid/a.xml has the class 'wolf', which is not among dog.*; rename it, or train with"
    with pytest.raises(data.DataError, match=message):
        open_detection_source(str(tmp_path), "valid")


def test_classes_from_a_list(folder):
    names = ("dog", "fish", "cat")
    source = open_detection_source(folder, "train", class_names=names)
    assert source.class_names == names
    assert source.truth(0).labels.tolist() == [2, 0]
    with pytest.raises(
        data.DataError, match=r"class 'dog', .* among cat, dug \(did you mean 'dug'"
    ):
        open_detection_source(folder, "train", class_names=("cat", "dug"))


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_stated_is_the_images(tmp_path, size):
    xml = re.sub("<size>.*</size>", size, voc_xml(("cat", (1, 1, 99, 99), False)))
    write_voc(tmp_path, {"a": xml})
    source = open_detection_source(str(tmp_path), "train")
    np.testing.assert_array_equal(source[0].boxes, [[0, 0, 60, 40]])


def test_a_size_that_differs_from_the_images(tmp_path):
    write_voc(tmp_path, {"a": voc_xml(CAT, height=60, width=40)})
    source = open_detection_source(str(tmp_path), "train")
    with pytest.raises(
        data.BadImageError, match="it is 60x40 px, its annotation says 40x60, turned"
    ):
        source[0]


def test_a_bad_box_is_named_by_its_file(tmp_path):
    write_voc(tmp_path, {"a": voc_xml(CAT, ("dog", (9, 30, 20, 29), False))})
    with pytest.raises(data.DataError, match="box 2 of a.xml is 12 px wide and 0 high; remove it"):
        open_detection_source(str(tmp_path), "train")
    source = open_detection_source(str(tmp_path), "train", on_bad_box="skip")
    assert source.truth(0).labels.tolist() == [0]


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY a{i} "{f"&a{i - 1 if i else str()};" * 10}">' for i in range(9))
    + "]>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("doctype", [BOMB, OUTSIDE, "<!DOCTYPE annotation>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_no_declaration_is_read(tmp_path, doctype, encoding):
    write_voc(tmp_path, {"a": voc_xml(CAT)})
    entity = "&a8;" if doctype is BOMB else "&a;" if doctype is OUTSIDE else "cat"
    text = doctype + voc_xml((entity, (1, 1, 5, 6), False))
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    with pytest.raises(
        data.DataError, match=r"a.xml cannot be used \(it has a DOCTYPE, which is n"
    ):
        open_detection_source(str(tmp_path), "train")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("</annotation>", "", "no element found"),
        ("<annotation>", "\x00", "not well-formed"),
        ("<name>cat</name>", "", "object 1 has no name"),
        ("<name>cat</name>", "<name> </name>", "object 1 has no name"),
        ("<xmin>1</xmin>", "", "object 1 has no box of numbers xmin, ymin, xmax, ymax"),
        ("<xmin>1</xmin>", "<xmin>one</xmin>", "object 1 has no box of numbers"),
        ("<width>60</width>", "<width>sixty</width>", "its size has 'sixty', not a number of"),
        ("<width>60</width>", "<width>inf</width>", "its size has 'inf', not a number of pixels"),
        ("<width>60</width>", "<width>1e12</width>", "pixels, more than the limit"),
    ],
)
def test_files_that_cannot_be_used(folder, tmp_path, old, new, reason):
    text = FILES["000007"].replace(old, new, 1)
    (tmp_path / "Annotations" / "000007.xml").write_text(text)
    with pytest.raises(
        data.DataError, match=rf"000007.xml cannot be used \(.*{reason}.*write it ag"
    ):
        open_detection_source(folder, "train")


def test_what_is_missing(folder, tmp_path):
    (tmp_path / "Annotations" / "000012.xml").rename(tmp_path / "other.xml")
    with pytest.raises(
        data.DataError, match="image '000012' .* has no file Annotations/000012.xml"
    ):
        open_detection_source(folder, "train")
    (tmp_path / "other.xml").rename(tmp_path / "Annotations" / "000012.xml")
    (tmp_path / "JPEGImages" / "000012.jpg").unlink()
    with pytest.raises(data.DataError, match="image '000012' of .* is not in JPEGImages"):
        open_detection_source(folder, "train")
    with pytest.raises(data.DataError, match="image '000012' of .* is not in JPEGImages"):
        open_detection_source(folder, "train+test")
    assert len(open_detection_source(folder, "test")) == 1


def test_an_image_beside_which_there_is_no_xml(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.jpg")
    (tmp_path / "a.xml").write_text(voc_xml(CAT))
    with pytest.raises(data.DataError, match=r"image 'b' .* has no file ./b.xml; add one, with no"):
        open_detection_source(str(tmp_path), "train")


def test_an_image_twice_in_a_list(folder, tmp_path):
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("000007\n000012\n000007\n")
    with pytest.raises(
        data.DataError, match="a list of .* has the image '000007' twice; remove one"
    ):
        open_detection_source(folder, "train")


def test_data_sets_joined(tmp_path):
    paths = []
    for year, name in [("VOC2007", "000007"), ("VOC2012", "2008_000012")]:
        write_voc(tmp_path / year, {name: voc_xml(CAT)}, {"trainval": [name], "test": [name]})
        paths.append(str(tmp_path / year))
    both = open_detection_source("+".join(paths), "trainval")
    assert [both.describe(index) for index in range(2)] == ["000007.jpg", "2008_000012.jpg"]
    assert both[1].image == (tmp_path / "VOC2012" / "JPEGImages" / "2008_000012.jpg").read_bytes()
    assert len(open_detection_source("+".join(paths), "trainval+test;trainval")) == 3
    with pytest.raises(data.DataError, match="joins 2 data sets, but 'a;b;c' names 3 splits"):
        open_detection_source("+".join(paths), "a;b;c")
    with pytest.raises(
        data.DataError, match="holds a data set in a folder of its own; give .*/VOC2"
    ):
        open_detection_source(str(tmp_path), "train")
    with pytest.raises(data.DataError, match="holds no boxes.*COCO"):
        open_detection_source(str(tmp_path / "VOC2007" / "ImageSets"), "train")
