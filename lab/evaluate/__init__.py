"""What a model is worth, with intervals."""
