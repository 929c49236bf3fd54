"""What a task prints and shows, on its way out of the driver."""
