"""The content of an answer beside the verdict."""
