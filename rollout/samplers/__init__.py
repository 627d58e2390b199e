"""Engines behind ``protocols.Sampler``. Importing this package loads none of them."""
