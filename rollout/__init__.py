"""The kernel: nouns, protocols, one episode loop, samplers, scheduler, store and evaluation. Imports nothing of ours."""
