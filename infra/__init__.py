"""What surrounds the code: images, deployment, and the making of the demo checkpoint."""
