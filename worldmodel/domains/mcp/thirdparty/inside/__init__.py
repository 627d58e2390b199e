"""Programs that run in a box, on the distribution's Python: no package of ours can be imported there."""
