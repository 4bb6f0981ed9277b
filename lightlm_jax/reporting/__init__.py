"""Writes the report of one or several runs as one self-contained HTML file."""
