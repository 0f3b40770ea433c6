"""Observers of an evaluation: errors per class, and the scores of every image."""
