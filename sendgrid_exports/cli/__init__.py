"""The command line. Extra `cli`: click and rich."""
