"""What an answer carries beside the verdict."""
