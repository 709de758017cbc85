"""A trained checkpoint on a user's own images: classes from a few of them, labels for the others."""
