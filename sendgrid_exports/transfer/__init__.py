"""Bringing the files of a ready export to disk, whole and verified."""
