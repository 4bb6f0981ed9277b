"""Published logs, downloaded and converted from their original files."""
