"""The torch side of a method: a user's task, the local learner, the objective."""
