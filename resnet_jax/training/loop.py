"""A run from its configuration to its last evaluation, in the order in which it happens."""

import collections
from pathlib import Path

import jax
from jax.sharding import Mesh

from ..evaluation import evaluate, make_eval_step
from ..parallel import data_mesh, replicate, shard_batch
from .checkpoint import Checkpoints
from .config import TrainConfig
from .experiment import compute_normalization, eval_batches, open_experiment, train_iterator
from .optimizer import make_optimizer, make_schedule
from .records import plot_curves, read_metrics
from .report import Report
from .state import create_state
from .step import make_train_step
from .workdir import open_workdir

MAX_STEPS_AHEAD = 4
"""How many steps may have been sent to the devices and not be known to be done."""


def train(
    config: TrainConfig, workdir: str | Path, mesh: Mesh | None = None
) -> dict[str, dict[str, float]]:
    """Trains a network, or goes on where the last checkpoint in `workdir` stands.

    Args:
      config: the run, from `resolve`.
      workdir: gets `config.json`, `metrics.jsonl`, `checkpoints/`, `tensorboard/`, `curves.png`.
      mesh: the devices, `data_mesh()` of all there are if not given.

    Returns:
      The last line of `metrics.jsonl` of each split: `step`, `loss`, `top1_error`, `top5_error`.

    Raises:
      ConfigError, ModelError, DataError: the configuration, the model's name and options or the
        data are not as they must be; nothing has been written then.
    """
    workdir = Path(workdir).absolute()
    mesh = data_mesh() if mesh is None else mesh
    experiment = open_experiment(config, mesh)
    num_steps = experiment.num_steps
    open_workdir(workdir, config)

    schedule = make_schedule(config, len(experiment.train_source))
    optimizer = make_optimizer(config)
    state = create_state(
        config, experiment.model, optimizer, experiment.normalization, experiment.image_shape
    )
    state = replicate(state, mesh)
    train_step = make_train_step(config, experiment.model, optimizer, schedule, mesh)
    eval_step = make_eval_step(experiment.model, mesh)
    batches = train_iterator(config, experiment)

    with Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints:
        step = checkpoints.latest_step() or 0
        if step:
            state, position = checkpoints.restore(step, like=state)
            batches.set_state(position)
        else:
            normalization = compute_normalization(config, experiment)
            state = state.replace(normalization=replicate(normalization, mesh))
        report = Report(
            workdir,
            step,
            num_steps,
            batch_size=config.batch_size,
            log_every=config.log_every,
            mesh=mesh,
        )
        sent: collections.deque[jax.Array] = collections.deque()
        while step < num_steps:
            state, metrics = train_step(state, shard_batch(next(batches), mesh))
            step += 1
            state = report.step(step, state, metrics)
            sent.append(metrics["learning_rate"])
            if len(sent) > MAX_STEPS_AHEAD:
                sent.popleft().block_until_ready()

            result = None
            if step % config.eval_every == 0 or step == num_steps:
                report.flush()
                result = evaluate(
                    eval_step, state.variables, state.normalization, eval_batches(experiment), mesh
                )
                report.evaluation(step, config.eval_split, result)
                feedback = state.feedback.after_evaluation(config, result["top1_error"])
                state = state.replace(feedback=replicate(feedback, mesh))
            if result or step % config.checkpoint_every == 0:
                report.flush()
                checkpoints.save(step, state, batches.get_state(), result)
                report.restart_clock(step)
        report.close()
    records = read_metrics(workdir)
    plot_curves({workdir.name: records}, workdir / "curves.png")
    return {record["split"]: record for record in records}
