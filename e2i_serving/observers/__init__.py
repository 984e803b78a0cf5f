"""What looks at finished predictions: siblings that never import each other."""
