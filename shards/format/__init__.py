"""A data set on disk: the manifest, the index of a tar, and the encodings of images."""
