"""Lockstep for tests: the rounds of a method on N peers in one thread; it stands in methods/lockstep.py."""

from shoal.methods.lockstep import Ended, mean, names, run_round, train, train_overlapped

__all__ = ["Ended", "mean", "names", "run_round", "train", "train_overlapped"]
