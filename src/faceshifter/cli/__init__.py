"""The command line: parse, call one function, print. Heavy imports wait until a command runs.

main.py       every command in its group, the overview, errors and exit codes
options.py    options that several commands share, checks of paths
say.py        lines for the terminal
swapping.py   swap, identity, demo
serving.py    serve, study, ui
training.py   prepare, train, rank-errors, bench, ablate
measuring.py  evaluate, check-identity, baseline, masks, query
checking.py   verify, doctor, models
"""
