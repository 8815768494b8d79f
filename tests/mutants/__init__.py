"""Are the tests any good: every command of a script deleted, every comparison flipped, and some test has to notice.

`python -m tests.mutants` does it, on copies of the checkout. `lua` and `python` make the mutants, `trial` runs the
tests on one of them, `survivors` holds those that nobody can tell from the original, with the reason.
"""
