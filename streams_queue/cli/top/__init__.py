"""`top`: a live view of a queue in a terminal.

`sampling` asks the server, `view` keeps what it said, `drawing` makes a screen of that, `terminal` takes the terminal
over and gives it back, `command` is the loop. See docs/decisions/0086-top.md.
"""
