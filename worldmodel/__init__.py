"""The simulator: domains, world models, the simulated environment, and how far all of it can be trusted."""
