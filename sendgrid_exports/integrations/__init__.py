"""What connects the package to other software; each module needs an extra of its own."""
