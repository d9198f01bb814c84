"""Training data: preparation, shards, pairs and occlusions."""
