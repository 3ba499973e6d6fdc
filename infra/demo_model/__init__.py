"""Training of the bundled demo checkpoint: synthetic images, trainers, evaluation, export."""
