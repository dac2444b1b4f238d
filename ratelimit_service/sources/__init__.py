"""The sources of rules. Each reads documents, which core/rules/reader.py turns into rules."""
