"""Training: batches of groups, the one TRL subclass, supervised stages, weights, checkpoints. Needs only `rollout`."""
