"""The kernel: nouns, protocols, one episode loop, samplers, scheduler, store, evaluation. Imports nothing of ours."""
