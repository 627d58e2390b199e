"""Third-party benchmarks of tool calls, for evaluation only: BFCL multi-turn and AgentDojo, each in its own code.

``install`` gets the pinned packages; ``bfcl`` and ``agentdojo`` make tasks of their data; ``grammar`` reads actions by
the tools that a task brings; ``real`` is the environment; ``inside`` are the programs that run in a box, the only place
where code of the benchmarks runs. Refuses: training data, simulated worlds.
"""
