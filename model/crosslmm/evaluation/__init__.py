"""Accuracy on questions whose answers are known."""
