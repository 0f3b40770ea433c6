"""Batches: their contents, and threads or processes that load them ahead of time."""
