"""The command line: it uses what everybody can import, and adds what people look at."""
