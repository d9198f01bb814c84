"""Training of the identity encoder, AEI-Net and HEAR-Net.

aei.py          stage one, Eq. (6)-(9)
hear.py         stage two, Eq. (10)-(15)
identity.py     distillation of the identity encoder
run.py          what all three share: run folder, encoders, exports
loop.py         the loop of all three, and what their steps are made of
report.py       means, speed and warnings, written every few steps
checkpoint.py   everything needed to resume
watchdog.py     names what goes wrong, from the reports alone
distributed.py  one training on several processes
plan.py         what a training takes, before it is started
bench.py        how fast a training and a swap are
"""
