"""What turns the event stream into other people's words; each module needs its own extra."""
