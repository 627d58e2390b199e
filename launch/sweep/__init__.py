"""Sweeps: many training runs, one question. Ray Tune runs them, Optuna proposes them, a ledger of our own decides.

Owns: what is proposed, pruned, run again or never run again, and the table at the end. Refuses: training itself;
a run of a sweep is an ordinary run directory of ``agentworld train``.
"""
