"""A trained checkpoint applied to a user's own images: a few define the classes, the others get labels."""
