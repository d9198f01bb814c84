"""The command line: parse, call one function, print. Heavy imports wait until a command runs."""
