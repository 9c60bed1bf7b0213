"""The pytest plugin: fixtures that give a test a running cluster. Loaded by pytest by itself, so it imports little."""
