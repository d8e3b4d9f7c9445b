"""What the scripts stand on: floors that import only those beneath them."""
