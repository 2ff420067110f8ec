"""Classes: what tags, dotted paths and old names mean, and what a class defines."""
