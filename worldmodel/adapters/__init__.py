"""Adapters: environments of other frameworks as real environments of ours, and ours as one of TRL's.

Owns: one small module per framework over what ``foreign`` shares. Refuses: importing a framework before an episode
needs it, and isolation: foreign code runs as whoever starts it, never in a box of the sandbox.
"""
