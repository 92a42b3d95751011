"""The lowerings of --lower-to-linalg, by theme."""
