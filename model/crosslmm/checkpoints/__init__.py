"""Checkpoints on disk: where they are, what is in them, loading and assembling them."""
