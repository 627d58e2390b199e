"""What runs inside the box: programs of the desktop, on the distribution's Python and its standard library alone.

Owns: nothing by itself. Refuses: being imported by more than each other and the tests.
"""
