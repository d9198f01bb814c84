"""Training of the identity encoder, AEI-Net and HEAR-Net."""
