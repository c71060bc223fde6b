"""Many nodes on one machine: plan, launcher, faults, shaped links, verdict."""
