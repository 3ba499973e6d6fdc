"""Checkpoints in the layout in which the family was released: found, checked, mapped onto a model; nothing executed."""
