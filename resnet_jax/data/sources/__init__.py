"""Sources of images and labels: TFDS data sets, folders of images, arrays."""
