"""Mutated image files against intake's header check and the decoder processes, by `make fuzz`."""
