"""The family's forward pass over fused weights: plain torch, packed rows, no knowledge of requests."""
