"""Decoders that are fed bytes and know nothing of where they come from."""
