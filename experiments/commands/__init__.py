"""One module for each command of `narrador`: its arguments and what it prints."""
