"""What can one ask? A file for each command."""
