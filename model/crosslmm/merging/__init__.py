"""Merging the visual tokens of a frame into fewer."""
