"""The built-in model: its weights, and how it is trained."""
