"""A plain optax loop without the trainer: the model, a jitted step, and explicit `batch_stats`.

    python examples/plain_loop.py

Expect a test error of about 12 %, in the demo's time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import resnet_jax
from resnet_jax import data


def main(num_steps: int = 560, batch_size: int = 64, model: str = "resnet20_cifar") -> float:
    """Trains on the bundled images, prints the test error and returns it."""
    train = data.open_source("fashion_mnist_mini", "train")
    test = data.open_source("fashion_mnist_mini", "test")
    net = resnet_jax.create_model(model, num_classes=10, kernels="auto")
    mean = train.images.mean(axis=0) / 255
    variables = net.init(jax.random.key(0), jnp.zeros([1, 28, 28, 1]))
    params, batch_stats = variables["params"], variables["batch_stats"]
    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, num_steps // 10, num_steps)
    optimizer = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(schedule, momentum=0.9))
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, batch_stats, opt_state, images, labels):
        def loss(params):
            # Training normalises by the batch, and returns the running statistics moved by it.
            logits, updates = net.apply(
                {"params": params, "batch_stats": batch_stats},
                images / 255 - mean,
                train=True,
                mutable=["batch_stats"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), updates["batch_stats"]

        grads, batch_stats = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    @jax.jit
    def predict(params, batch_stats, images):
        logits = net.apply({"params": params, "batch_stats": batch_stats}, images / 255 - mean)
        return logits.argmax(axis=-1)

    rng = np.random.default_rng(0)
    for _ in range(num_steps):
        batch = rng.choice(len(train), batch_size, replace=False)
        images, labels = train.images[batch], train.labels[batch]
        params, batch_stats, opt_state = step(params, batch_stats, opt_state, images, labels)
    error = float(np.mean(predict(params, batch_stats, test.images) != test.labels))
    print(f"test error {error:.1%} after {num_steps} steps")
    return error


if __name__ == "__main__":
    main()
