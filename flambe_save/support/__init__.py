"""Support for all modules: threads, checksums, progress, undoing after an interrupt."""
