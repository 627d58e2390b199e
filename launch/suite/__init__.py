"""``agentworld eval --suite``: one policy on many benchmarks, in their real worlds."""
