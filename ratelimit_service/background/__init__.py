"""Work beside the calls: tasks that are started again when they fail, and threads that never hold up the end of the process."""
