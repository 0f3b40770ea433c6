from resnet_jax.data.sources.class_names import imagenet_class_names, readable_class_names


def test_the_thousand_classes_in_the_order_of_their_labels():
    names = imagenet_class_names()
    assert len(names) == len(set(names.values())) == 1000
    assert list(names) == sorted(names)
    # As any list of ImageNet's labels has them.
    labels = list(names.values())
    assert labels[0] == "tench"
    assert labels[207] == "golden retriever"
    assert labels[281] == "tabby"
    assert labels[999] == "toilet tissue"
    assert names["n02124075"] == "Egyptian cat"


def test_ids_become_names_and_names_stay():
    assert readable_class_names(["n01443537", "cat", "n99999999"]) == (
        "goldfish",
        "cat",
        "n99999999",
    )
