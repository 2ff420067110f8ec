"""What several test files use: saves as files and with configs of the test's choice, and values that are compared."""
