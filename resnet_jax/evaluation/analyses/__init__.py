"""The paper's analyses: layer responses and recomputed batch statistics."""
