"""Objects: taken apart into what they hold and put together again, without running their classes' code."""
