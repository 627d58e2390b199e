"""The checks of ``agentworld doctor`` that do more than look: each a function that returns a line or raises Problem."""
