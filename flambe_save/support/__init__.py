"""Support: what any module may use: threads, checksums, progress, what is taken back after an interrupt."""
