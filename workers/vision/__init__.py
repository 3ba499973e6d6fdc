"""The GPU worker: the only place of torch, transformers and full image decoding."""
