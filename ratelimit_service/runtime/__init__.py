"""This process: its tasks, threads, lock files, descriptors and health."""
