"""The tasks that come with shoal, and how their data is shared among nodes."""
