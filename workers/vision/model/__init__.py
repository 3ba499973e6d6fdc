"""The model on its devices: assembled from logical weights, placed, quantised, fed with tiles. torch lives here."""
