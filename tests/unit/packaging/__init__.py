"""What is shipped: wheel, images, compose file, tree."""
