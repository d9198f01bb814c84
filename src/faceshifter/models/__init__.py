"""The networks of the paper and the identity encoders."""
