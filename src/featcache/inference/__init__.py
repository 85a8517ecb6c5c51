"""What a model file says of images, and how good that is."""
