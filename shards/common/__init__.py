"""Files, URLs, errors, processes and progress: what every other package may import."""
