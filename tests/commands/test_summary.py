from resnet_jax.commands import summary


def rows(capsys, *argv):
    summary.main(list(argv))
    heading, _, *table = capsys.readouterr().out.splitlines()
    return heading, {line.split()[0]: line.split() for line in table}


def test_the_stages_and_totals(capsys):
    heading, table = rows(capsys, "resnet50_v1")
    assert heading == "resnet50_v1: 1000 classes, 224 x 224 x 3 images"
    assert " ".join(table["stage4"]) == "stage4 3 7 x 7 x 2048 14,964,736 732,168,192"
    # PAPER's Table 1: 3.8e9.
    assert table["total"] == ["total", "16", "25,557,032", "3,857,973,248"]


def test_cifar_networks_have_the_papers_images_and_classes(capsys):
    heading, table = rows(capsys, "resnet20_cifar")
    assert heading == "resnet20_cifar: 10 classes, 32 x 32 x 3 images"
    assert table["total"][2] == "269,722"


def test_another_size(capsys):
    heading, table = rows(capsys, "resnet18", "--image_size", "33")
    assert heading.endswith("33 x 33 x 3 images")
    assert " ".join(table["stage4"]).startswith("stage4 2 2 x 2 x 512")
