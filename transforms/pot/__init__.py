"""What --fuse-pot does before it rounds scales: constant factors that are no powers of two go into weights."""
