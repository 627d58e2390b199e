"""Starting a training elsewhere: one file per target, over one prepared job."""
