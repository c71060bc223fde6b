"""The trainer process, and both ends of the line to it."""
