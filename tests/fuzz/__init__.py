"""A fuzzer of everything that the program reads: ``make fuzz CALLS=10000``.

subjects.py   what is read: real files by the project's own writers, and the call that reads each
mutation.py   changes of a file that know its structure, as plans that Hypothesis draws
worker.py     the child process: applies a plan to a copy of the files, and makes the call
run.py        keeps the workers, kills those that hang or grow, counts, and prints what was found
"""
