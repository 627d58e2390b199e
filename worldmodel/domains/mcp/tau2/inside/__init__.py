"""Programs inside the box of an episode, on the packages that set-up installed; nothing of ours is imported."""
