"""The making of the bundled demo checkpoint: pictures, training, evaluation, export."""
