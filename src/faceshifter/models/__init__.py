"""The networks and losses of the paper, and nothing else.

aad.py            the AAD layer and its residual block, Eq. (2)-(5), Fig. 3(b) and 3(c)
attributes.py     the multi-level attributes encoder, Eq. (1)
aei.py            AEI-Net, the first stage, Fig. 3(a)
hear.py           HEAR-Net, the second stage, Eq. (10)-(11), Fig. 4
discriminator.py  the multi-scale discriminator, Appendix B
losses.py         every loss as one pure function, Eq. (6)-(9) and (12)-(15)
"""
