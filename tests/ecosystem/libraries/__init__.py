"""One file for each library: what a program that uses it imports, its own classes, and objects that it would save."""
