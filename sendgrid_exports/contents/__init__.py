"""From files to contacts: rows, typed, in batches, or straight from the links."""
