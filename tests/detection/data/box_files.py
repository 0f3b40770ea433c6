"""Writes small data sets with boxes by hand: images, COCO's JSON, VOC's XML, TFDS's records."""

import json

import numpy as np
from PIL import Image

from tests.data.tfds_files import TFDS, encode, image_feature

VOC_LABELS = ("aeroplane", "bicycle", "bird")


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write_image(path, height=40, width=60):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(height, width)).save(path)


def write_coco(path, images, annotations, categories):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))


def voc_xml(*objects, height=40, width=60, extra=""):
    """An XML file of objects (name, (xmin, ymin, xmax, ymax), difficult)."""
    parts = [
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox>"
        + "".join(
            f"<{key}>{value}</{key}>"
            for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + f"</bndbox>{extra}</object>"
        for name, box, difficult in objects
    ]
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(parts)}</annotation>"


def write_voc(root, files, lists=None):
    """Writes a VOC folder; `files` has the XML of each name, `lists` the names of each split."""
    for name, xml in files.items():
        write_image(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(xml)
    for split, names in (lists or {}).items():
        folder = root / "ImageSets" / "Main"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))


def label_feature(number):
    kind = f"{TFDS}.class_label_feature.ClassLabel"
    return {"pythonClassName": kind, "classLabel": {"numClasses": str(number)}}


def number_feature(dtype):
    kind = f"{TFDS}.scalar.Scalar"
    return {
        "pythonClassName": kind,
        "tensor": {"shape": {}, "dtype": dtype, "encoding": "none"},
    }


BOX = {
    "pythonClassName": f"{TFDS}.bounding_boxes.BBoxFeature",
    "boundingBox": {"shape": {"dimensions": ["4"]}, "dtype": "float32", "bboxFormat": "REL_YXYX"},
}


def features_json(objects, **others):
    inner = {
        "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
        "featuresDict": {"features": objects},
    }
    features = {
        "image": image_feature((-1, -1, 3), "jpeg"),
        "image/filename": {"pythonClassName": f"{TFDS}.text_feature.Text", "text": {}},
        "objects": {
            "pythonClassName": f"{TFDS}.sequence_feature.Sequence",
            "sequence": {"feature": inner, "length": "-1"},
        },
        **others,
    }
    return {
        "pythonClassName": f"{TFDS}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }


def write_records(data_dir, name, features, records, class_names, version="1.0.0"):
    """Writes records as TFDS does; `records` has dictionaries of bytes, integers and arrays.

    The records are the product's own writer's.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    from resnet_jax.data.prepare.writer import Split, make_record, record_size

    directory = data_dir / name / version
    directory.mkdir(parents=True)
    base, _, config = name.partition("/")
    (directory / "features.json").write_text(json.dumps(features))
    (directory / "objects-label.labels.txt").write_text("\n".join(class_names) + "\n")
    files = [record["image"] for record in records]
    others = [{k: v for k, v in record.items() if k != "image"} for record in records]
    keys = list(range(len(files)))
    split = Split("train", keys, list(map(len, files)), files.__getitem__, others.__getitem__)
    path = directory / f"{base}-train.array_record-00000-of-00001"
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for index in range(len(split)):
        record = make_record(split, index)
        assert record_size(split, index) == len(record)
        writer.write(record)
    writer.close()
    info = {
        "fileFormat": "array_record",
        "name": base,
        "version": version,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": "train",
                "numBytes": "1",
                "shardLengths": [str(len(split))],
            }
        ],
    }
    if config:
        info["configName"] = config
    (directory / "dataset_info.json").write_text(json.dumps(info))


def voc_record(boxes, labels, difficult, name="000001.jpg", height=40, width=60):
    """A record of VOC as TFDS makes it of (xmin, ymin, xmax, ymax), counted from 1."""
    relative = [(y1 / height, x1 / width, y2 / height, x2 / width) for x1, y1, x2, y2 in boxes]
    return {
        "image": encode(pixels(height, width), "jpeg"),
        "image/filename": name.encode(),
        "objects/bbox": np.array(relative, np.float32).ravel(),
        "objects/label": np.array(labels, np.int64),
        "objects/is_difficult": np.array(difficult, np.int64),
    }


VOC_OBJECTS = {
    "bbox": BOX,
    "label": label_feature(len(VOC_LABELS)),
    "is_difficult": number_feature("bool"),
}
