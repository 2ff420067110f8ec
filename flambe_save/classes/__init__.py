"""Classes: which one a tag means, where it is imported from, what it was called, and what it defines."""
