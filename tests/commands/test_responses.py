import pytest
from matplotlib import image as matplotlib_image

from resnet_jax import evaluation
from resnet_jax.commands import responses
from resnet_jax.runtime.devices import data_mesh
from resnet_jax.training.restore import open_run
from tests.training.runs import eval_batches, make_run


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    make_run(folder / "resnet20", [(1, 0.5), (2, 0.6)])
    make_run(folder / "plain20", [(1, 0.5)], model="plain20_cifar")
    return [str(folder / name) for name in ("resnet20", "plain20")]


def test_a_table_and_a_picture_of_two_runs(workdirs, tmp_path, capsys):
    picture = tmp_path / "responses.png"
    responses.main(["--workdir", *workdirs, "--output", str(picture), "--checkpoint", "best"])
    *table, last = capsys.readouterr().out.splitlines()
    assert last == str(picture)
    assert matplotlib_image.imread(picture).std() > 0.05
    networks = [open_run(workdir, "best").network for workdir in workdirs]
    expected = {
        name: evaluation.layer_responses(network, eval_batches(), data_mesh())
        for name, network in zip(("resnet20", "plain20"), networks, strict=True)
    }
    assert "\n".join(table) == evaluation.format_responses(expected)
    assert [len(run) for run in expected.values()] == [19, 19]
