"""Container images, the training of the demo checkpoint, and the tables of settings and metrics in `docs/`."""
