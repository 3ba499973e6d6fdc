"""Commands for people: what a checkpoint holds, what the model sees of an image."""
