"""Objects taken apart and put together again, without running code of their classes."""
