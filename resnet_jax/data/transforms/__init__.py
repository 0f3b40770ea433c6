"""Transforms: augmentation and crops on the host; normalisation and colour on the device."""
