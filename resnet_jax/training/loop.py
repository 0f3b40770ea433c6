"""A run from its configuration to its last evaluation, in the order in which it happens."""

import signal
import time
from pathlib import Path

import jax
from jax.sharding import Mesh

from ..evaluation import evaluate, make_eval_step
from ..parallel import data_mesh, enable_compilation_cache, replicate, shard_batch
from .checkpoint import Checkpoints
from .config import TrainConfig
from .experiment import compute_normalization, eval_batches, open_experiment, train_iterator
from .optimizer import make_optimizer, make_schedule
from .pace import Pace, Profile
from .records import plot_curves, read_metrics
from .report import Report
from .state import create_state
from .step import make_train_step
from .stop import Stop, Stopped
from .warm_start import load_initial
from .workdir import open_workdir


def train(
    config: TrainConfig, workdir: str | Path, mesh: Mesh | None = None
) -> dict[str, dict[str, float]]:
    """Trains a network, or goes on where the last checkpoint in `workdir` stands.

    SIGTERM, SIGUSR1, SIGINT and `config.stop_after` end it after the current step, its state saved.

    Args:
      config: the run, from `resolve`.
      workdir: gets `config.json`, `metrics.jsonl`, `checkpoints/`, `tensorboard/`, `curves.png`.
      mesh: the devices, `data_mesh()` of all there are if not given.

    Returns:
      The last line of `metrics.jsonl` of each split: `step`, `loss`, `top1_error`, `top5_error`;
      nothing on other hosts than the first.

    Raises:
      ConfigError, ModelError, DataError: the configuration, the model's name and options or the
        data are not as they must be; nothing has been written then.
      KeyboardInterrupt: SIGINT ended the run; its state is saved.
    """
    started, workdir = time.monotonic(), Path(workdir).absolute()
    enable_compilation_cache(config.compilation_cache)
    mesh = data_mesh() if mesh is None else mesh
    experiment = open_experiment(config, mesh)
    num_steps = experiment.num_steps
    initial = load_initial(config, experiment.model, experiment.image_shape[2])
    open_workdir(workdir, config)

    schedule = make_schedule(config, len(experiment.train_source))
    optimizer = make_optimizer(config)
    state = create_state(
        config,
        experiment.model,
        optimizer,
        experiment.normalization,
        experiment.image_shape,
        initial,
    )
    state = replicate(state, mesh)
    train_step = make_train_step(config, experiment.model, optimizer, schedule, mesh)
    eval_step = make_eval_step(experiment.model, mesh)
    batches = train_iterator(config, experiment)

    with (
        Stop(config.stop_after) as stop,
        Checkpoints(workdir / "checkpoints", config.keep_checkpoints) as checkpoints,
    ):
        step, evaluated = checkpoints.latest_step() or 0, True
        if step:
            state, position = checkpoints.restore(step, like=state)
            batches.set_state(position["data"])
            evaluated = position["evaluated"]  # False where a signal ended the evaluation.
        else:
            normalization = compute_normalization(config, experiment)
            state = state.replace(normalization=replicate(normalization, mesh))

        pace, profile = Pace(stop), Profile(workdir / "profile", config.profile_steps)
        with Report(config, workdir, step, num_steps, mesh, evaluated, started) as report, profile:
            while True:
                result = None
                if not evaluated:
                    report.flush()
                    split = stop.unless_asked(eval_batches(config, experiment))
                    try:
                        result = evaluate(
                            eval_step, state.variables, state.normalization, split, mesh
                        )
                    except Stopped:
                        pass
                    else:
                        report.evaluation(step, config.eval_split, result)
                        feedback = jax.device_get(state.feedback)
                        feedback = feedback.after_evaluation(config, result["top1_error"])
                        state = state.replace(feedback=replicate(feedback, mesh))
                        evaluated = True
                stopping = pace.told_to_stop()
                if step and (result or stopping or step % config.checkpoint_every == 0):
                    report.flush()
                    position = {"data": batches.get_state(), "evaluated": evaluated}
                    checkpoints.save(step, state, position, result)
                    report.restart_clock(step)
                if stopping or step >= num_steps:
                    break

                batch = pace.next_batch(batches)
                state, metrics = train_step(state, shard_batch(batch, mesh))
                step += 1
                pace.sent(metrics)
                profile.sent(step, metrics)
                state = report.step(step, state, metrics, pace.take_waited(), batches.bad_images)
                evaluated = step % config.eval_every != 0 and step != num_steps
            if stopping and step < num_steps:
                report.say(f"{stop.reason()}: saved at step {step}; the same command goes on there")

    if stop.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if jax.process_index() != 0:
        return {}
    records = read_metrics(workdir)
    plot_curves({workdir.name: records}, workdir / "curves.png")
    return {record["split"]: record for record in records}
