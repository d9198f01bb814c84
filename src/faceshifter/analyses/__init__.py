"""The paper's figures about the first stage, made from your own weights and photos.

ablation.py  Fig. 7: AEI-Net beside Compressed, Add and Cat, trained and measured alike
masks.py     Fig. 8: where each level of the generator uses the identity
query.py     Fig. 9: faces of a gallery with the nearest attributes
"""
