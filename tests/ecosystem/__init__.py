"""Objects of other libraries, as programs hold them: saved in one process, loaded in another, compared exactly."""
