"""What operators see while the service runs."""
