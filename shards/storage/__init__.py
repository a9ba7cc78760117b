"""Where the bytes come from: local files, or a server through a cache."""
