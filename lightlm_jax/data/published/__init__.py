"""Published logs, from the files that their makers offer."""
