"""Decoding of image files: exact as Pillow does it, and fast for JPEGs."""
